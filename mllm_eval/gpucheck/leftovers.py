"""Checks how much memory a training under ZeRO-3 leaves allocated in its process, which evaluates afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mllm_eval.gpucheck.session import Session
from mllm_eval.gpucheck.trainings import ZERO, trained

# Bytes per trained parameter. An optimiser that was not released holds 16 or more.
BOUND = 1.0


@contextmanager
def planted() -> Iterator[None]:
    """Does nothing: the worker itself skips the release of memory if `session.planted` is set."""
    yield


def check(session: Session) -> None:
    """Measures the memory after stage 1 under ZeRO-2, stage 2 under ZeRO-3 with live features, and a collection."""
    outcome = trained(session, ZERO)
    session.seen("parameters that were trained", outcome["trained"])
    held = outcome["held"] / outcome["trained"]
    session.judge("held after training, bytes a trained parameter", held, "<=", BOUND)

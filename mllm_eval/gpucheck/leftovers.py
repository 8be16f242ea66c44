"""What a training under ZeRO-3 leaves in the memory of its process, which then evaluates."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mllm_eval.gpucheck.session import Session
from mllm_eval.gpucheck.trainings import ZERO, trained

# Bytes a trained parameter. An optimiser that is still there holds 16 and more.
BOUND = 1.0


@contextmanager
def planted() -> Iterator[None]:
    """The worker's own: nothing is let go of."""
    yield


def check(session: Session) -> None:
    """After stage 1 under ZeRO-2, stage 2 under ZeRO-3 with the encoder live, and a collection."""
    outcome = trained(session, ZERO)
    session.seen("parameters that were trained", outcome["trained"])
    held = outcome["held"] / outcome["trained"]
    session.judge("held after training, bytes a trained parameter", held, "<=", BOUND)

"""Checks stage 2 on several GPUs over NCCL: the losses equal those of one process, also after a process was killed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mllm_eval.gpucheck.session import Session
from mllm_eval.gpucheck.trainings import (
    DRY_SEVERAL,
    FULL_SEVERAL,
    ZERO,
    call_worker,
    losses_apart,
    run_worker,
    tell_losses,
)

# Largest differences of the first loss, and of all losses on average: bfloat16 gradients are summed in another order,
# and the rounding errors of many steps add up.
BOUNDS = (1e-2, 5e-2)
# Largest difference between two runs on GPUs, where some backward operations add in an arbitrary order.
AGAIN = 1e-2
ONCE = "each once"


@contextmanager
def planted() -> Iterator[None]:
    """Does nothing: the worker itself increases the loss, except within `sound`."""
    yield


@contextmanager
def sound(session: Session) -> Iterator[None]:
    """A context in which trainings have no planted fault."""
    before, session.planted = session.planted, False
    try:
        yield
    finally:
        session.planted = before


def check(session: Session) -> None:
    """Trains with one process, with several, and with several of which one is killed; then resumes the killed run."""
    steps = DRY_SEVERAL if session.dry else FULL_SEVERAL
    with sound(session):
        alone = run_worker(session, ZERO, steps, "alone")
    whole = run_worker(session, ZERO, steps, "whole", session.gpus)
    session.judge("processes", whole["processes"], "==", session.gpus)
    session.judge("they speak over", whole["backend"], "==", "gloo" if session.dry else "nccl")
    tell_losses(session, f"{session.gpus} processes against one", whole, alone["losses"], BOUNDS)
    # Between two checkpoints, so that the resumed run has to repeat some steps.
    at = steps.stage2 * 3 // 4 + 1
    killed = call_worker(session, ZERO, steps, "again", session.gpus, [f"--die={at}"])
    session.judge(f"exit code where one is killed at step {at}", killed.returncode, ">=", 1)
    with sound(session):
        again = run_worker(session, ZERO, steps, "again", session.gpus)
    done = again["steps"]["stage2"] == list(range(1, steps.stage2 + 1))
    session.judge("steps in the log of the one that goes on", ONCE if done else f"not {ONCE}", "==", ONCE)
    _, apart = losses_apart(again["losses"]["stage2"], whole["losses"]["stage2"])
    session.judge("its losses against the whole one's, on the mean", apart, "<=", 0.0 if session.dry else AGAIN)

"""Stage 2 on several GPUs over nccl: the losses of one process, and the same after a process was killed."""

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

# Sums of gradients in another order, in bfloat16; on the mean over more steps, whose roundings add up.
BOUNDS = (1e-2, 5e-2)
# On a GPU the backward of some operations adds in any order.
AGAIN = 1e-2
ONCE = "each once"


@contextmanager
def planted() -> Iterator[None]:
    """The worker's own: a larger loss, but neither in the run that others are held against nor in
    the one that goes on."""
    yield


@contextmanager
def sound(session: Session) -> Iterator[None]:
    """Within, trainings have no fault."""
    before, session.planted = session.planted, False
    try:
        yield
    finally:
        session.planted = before


def check(session: Session) -> None:
    """One process; several; several of which one is killed in the middle of stage 2; and that one again, to its end."""
    steps = DRY_SEVERAL if session.dry else FULL_SEVERAL
    with sound(session):
        alone = run_worker(session, ZERO, steps, "alone")
    whole = run_worker(session, ZERO, steps, "whole", session.gpus)
    session.judge("processes", whole["processes"], "==", session.gpus)
    session.judge("they speak over", whole["backend"], "==", "gloo" if session.dry else "nccl")
    tell_losses(session, f"{session.gpus} processes against one", whole, alone["losses"], BOUNDS)
    # Not at a step that has a checkpoint: some steps are done twice.
    at = steps.stage2 * 3 // 4 + 1
    killed = call_worker(session, ZERO, steps, "again", session.gpus, [f"--die={at}"])
    session.judge(f"exit code where one is killed at step {at}", killed.returncode, ">=", 1)
    with sound(session):
        again = run_worker(session, ZERO, steps, "again", session.gpus)
    done = again["steps"]["stage2"] == list(range(1, steps.stage2 + 1))
    session.judge("steps in the log of the one that goes on", ONCE if done else f"not {ONCE}", "==", ONCE)
    _, apart = losses_apart(again["losses"]["stage2"], whole["losses"]["stage2"])
    session.judge("its losses against the whole one's, on the mean", apart, "<=", 0.0 if session.dry else AGAIN)

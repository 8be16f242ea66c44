"""Stage 2 on several GPUs over nccl: the losses of one process, and the same after a process was killed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mllm_eval.gpucheck.session import Session
from mllm_eval.gpucheck.trainings import (
    DRY_SEVERAL,
    FULL_SEVERAL,
    GOLDEN,
    ZERO,
    call_worker,
    losses_apart,
    run_worker,
    tell_losses,
)
from mllm_eval.storage import read_json

# As of one process in bfloat16, though the mean is over more steps, whose roundings add up.
BOUNDS = (2e-2, 5e-2)
# On a GPU the backward of some operations adds in any order.
AGAIN = 1e-2


@contextmanager
def planted() -> Iterator[None]:
    """The worker's own: visual tokens halved while training; not in the run that goes on after its end."""
    yield


def check(session: Session) -> None:
    """A whole training; one that is killed in the middle of stage 2; and that one again, to its end."""
    steps = DRY_SEVERAL if session.dry else FULL_SEVERAL
    wanted: dict[str, list[float]] = read_json(GOLDEN)["dry, several" if session.dry else "full, several"]
    whole = run_worker(session, ZERO, steps, "whole", session.gpus)
    session.judge("processes", whole["processes"], "==", session.gpus)
    session.judge("they speak over", whole["backend"], "==", "gloo" if session.dry else "nccl")
    tell_losses(session, f"{session.gpus} processes", whole, wanted, BOUNDS)
    # Not at a step that has a checkpoint: some steps are done twice.
    at = steps.stage2 * 3 // 4 + 1
    killed = call_worker(session, ZERO, steps, "again", session.gpus, [f"--die={at}"])
    session.judge(f"exit code of the one that is killed at step {at}", killed.returncode, ">=", 1)
    planted_before, session.planted = session.planted, False
    try:
        again: dict[str, Any] = run_worker(session, ZERO, steps, "again", session.gpus)
    finally:
        session.planted = planted_before
    done = again["steps"]["stage2"] == list(range(1, steps.stage2 + 1))
    session.judge(
        "steps of stage 2 in the log of the one that goes on",
        "each once" if done else "not each once",
        "==",
        "each once",
    )
    _, apart = losses_apart(again["losses"]["stage2"], whole["losses"]["stage2"])
    session.judge("its losses against the whole one's, on the mean", apart, "<=", 0.0 if session.dry else AGAIN)

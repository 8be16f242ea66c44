"""Compares the miniature's training on this device with losses from a CPU, and the engine with the plain loop."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mllm_eval.gpucheck.session import Session
from mllm_eval.gpucheck.trainings import PLAIN, ZERO, golden, tell_losses, trained

# Largest differences of the first loss, and of all losses on average. float32 sums in another order; bfloat16 rounds to
# 2^-9 of a value.
FLOAT32, BFLOAT16 = (1e-4, 5e-3), (1e-2, 2e-2)

# Largest share of answers that no tie explains, in bfloat16 and without a fault (2 of 52 were seen: the few roundings
# that are tried may miss the worst); and the smallest share that the fault must cause.
ROUNDED, FAULTY = 0.05, 0.1
TRAININGS = ((PLAIN, FLOAT32), (ZERO, BFLOAT16))


@contextmanager
def planted() -> Iterator[None]:
    """Does nothing: the worker itself increases the loss and swaps the engine's fault if `session.planted` is set."""
    yield


def check(session: Session) -> None:
    """Trains in float32, and in bfloat16 under ZeRO-2 and ZeRO-3 with live features; both checkpoints then answer."""
    wanted = golden(session)
    for training, bounds in TRAININGS:
        outcome = trained(session, training)
        tell_losses(session, f"{training.name} against a CPU's float32", outcome, wanted, bounds)
        engine, fault = outcome["answers"]["engine"], outcome["answers"]["fault"]
        ties = f"of {engine['questions']} questions, {engine['ties']} differ by a tie, {engine['failed']} failed"
        name = f"{training.name}: share of answers that differ from the plain loop's by more than a tie"
        most = 0.0 if training.dtype == "float32" else ROUNDED
        session.judge(name, engine["wrong"] / engine["questions"], "<=", most, note=ties)
        share = fault["wrong"] / fault["questions"]
        session.judge(f"{training.name}: the same with attention scaled by 0.7", share, ">=", FAULTY)

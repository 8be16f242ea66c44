"""The miniature trained on this device against the losses of a CPU, and the engine against the plain loop."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mllm_eval.gpucheck.session import Session
from mllm_eval.gpucheck.trainings import PLAIN, ZERO, golden, tell_losses, trained

# Of the first loss, and on the mean: float32 sums in another order; bfloat16 rounds to 2^-9 of a value.
FLOAT32, BFLOAT16 = (1e-4, 5e-3), (1e-2, 2e-2)

# In bfloat16 the few roundings that are tried may miss the worst: 2 of 52 answers were no tie, and there was no fault.
ROUNDED, FAULTY = 0.05, 0.1
TRAININGS = ((PLAIN, FLOAT32), (ZERO, BFLOAT16))


@contextmanager
def planted() -> Iterator[None]:
    """The worker's own: a larger loss, and the engine's fault where none should be."""
    yield


def check(session: Session) -> None:
    """float32 plainly, bfloat16 under ZeRO-2 and, the encoder live, ZeRO-3; both checkpoints answer."""
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

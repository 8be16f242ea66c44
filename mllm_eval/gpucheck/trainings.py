"""Trains the miniature in separate processes, since DeepSpeed changes its process, in a temporary folder."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mllm_eval.distributed.launchers import free_port
from mllm_eval.gpucheck.session import Session
from mllm_eval.storage import PACKAGE, read_json

GOLDEN = PACKAGE / "gpucheck" / "golden.json"
# Rows per step of stage 2, which several processes share.
BATCH = 16
# Seconds that a training may continue beyond the budget, so that a late one is not mistaken for one that hangs.
GRACE = 120.0
# Seconds that a stopped training has to end its processes.
TO_END = 30.0


@dataclass(frozen=True)
class Steps:
    """The steps of each stage, the rows of each training set, and the questions per benchmark asked afterwards."""

    stage1: int
    stage2: int
    alignment: int
    instruction: int
    questions: int


FULL = Steps(stage1=40, stage2=60, alignment=1500, instruction=1200, questions=20)
DRY = Steps(stage1=4, stage2=4, alignment=160, instruction=160, questions=2)
# The check of several GPUs is about stage 2, so stage 1 is short.
FULL_SEVERAL = Steps(stage1=4, stage2=100, alignment=1500, instruction=1200, questions=0)
DRY_SEVERAL = Steps(stage1=1, stage2=6, alignment=160, instruction=160, questions=0)


@dataclass(frozen=True)
class Training:
    """A training of the miniature; `cost` and `dry_cost` are its seconds on an H200 and on two CPU cores."""

    name: str
    dtype: str
    cost: float
    dry_cost: float
    stage1: str = ""
    stage2: str = ""

    def recipe(self, steps: Steps, processes: int = 1) -> str:
        """The recipe as yaml, for processes that share a batch of 16 evenly. Other fields come from recipe `mini`."""
        first = f"steps: {steps.stage1}, micro_batch: {32 // processes}{self.stage1}"
        second = f"steps: {steps.stage2}, micro_batch: {min(8, BATCH // processes)}{self.stage2}"
        head = f"base: mini\nname: gpu-{self.name}\ndtype: {self.dtype}\n"
        return f"{head}stage1: {{{first}}}\nstage2: {{{second}}}\n"


LIVE = ", gradient_checkpointing: true, features: live"
PLAIN = Training("float32", "float32", 50, 30)
# Only stage 2 has live features: stage 1 standardises features, whose statistics it computes from stored ones.
ZERO = Training("zero", "bfloat16", 60, 40, ", deepspeed: zero2", f", deepspeed: zero3{LIVE}")


def steps_of(session: Session) -> Steps:
    """The steps of a session's trainings on a single device."""
    return DRY if session.dry else FULL


def golden(session: Session) -> dict[str, list[float]]:
    """The stored losses per step, for `stage1` and `stage2`, of the float32 training on a CPU."""
    losses: dict[str, list[float]] = read_json(GOLDEN)["dry" if session.dry else "full"]
    return losses


def trained(session: Session, training: Training) -> dict[str, Any]:
    """The result that `mllm_eval.gpucheck.worker` writes for a training; each training runs only once per session.

    Raises RuntimeError, with the error's last line, if the training failed.
    """
    if training.name not in session.trained:
        try:
            outcome: Any = run_worker(session, training, steps_of(session), training.name)
        except RuntimeError as problem:
            outcome = problem
        session.trained[training.name] = outcome
    known = session.trained[training.name]
    if isinstance(known, RuntimeError):
        raise known
    result: dict[str, Any] = known
    return result


def run_worker(
    session: Session, training: Training, steps: Steps, name: str, processes: int = 1, more: Sequence[str] = ()
) -> dict[str, Any]:
    """Trains in new processes, under torchrun if there are several. Raises RuntimeError as `trained` does."""
    outcome = call_worker(session, training, steps, name, processes, more)
    if outcome.returncode:
        lines = [line for line in (outcome.stderr + outcome.stdout).splitlines() if line.strip()]
        # Lines after the error are torchrun's, which say only which process failed.
        said = [line for line in lines if "Error" in line and "ChildFailed" not in line] or lines or ["it said nothing"]
        raise RuntimeError(f"the training ended with {outcome.returncode}: {said[-1].strip()[:300]}")
    result: dict[str, Any] = read_json(session.folder / f"{name}.json")
    return result


def call_worker(
    session: Session, training: Training, steps: Steps, name: str, processes: int = 1, more: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Trains as `run_worker` does, but returns the finished process whatever its exit code."""
    home = session.folder / name
    home.mkdir(exist_ok=True)
    recipe = home / f"gpu-{training.name}.yaml"
    recipe.write_text(training.recipe(steps, processes))
    words = [str(recipe), str(session.folder / f"{name}.json"), *_numbers(steps)]
    words += ["--planted"] if session.planted else []
    start = [sys.executable, "-W", "ignore"]
    if processes > 1:
        meeting = ["--master-addr", "127.0.0.1", "--master-port", str(free_port())]
        start += ["-m", "torch.distributed.run", "--nproc-per-node", str(processes), *meeting]
    environment = {
        "OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // processes)),
        **os.environ,
        "MLLM_EVAL_RESULTS": str(home / "results"),
        "MLLM_EVAL_DATA": str(rendered(session, steps)),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(PACKAGE.parent), os.environ.get("PYTHONPATH")])),
    }
    return run_bounded(
        [*start, "-m", "mllm_eval.gpucheck.worker", *words, *more], environment, max(0.0, session.left) + GRACE
    )


def run_bounded(command: Sequence[str], environment: dict[str, str], most: float) -> subprocess.CompletedProcess[str]:
    """Runs a command like subprocess.run, but stops it after `most` seconds and raises RuntimeError.

    It sends SIGTERM first, so that torchrun can end its own processes.
    """
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            out, said = process.communicate(timeout=most)
        except subprocess.TimeoutExpired:
            process.terminate()
            try:
                process.wait(TO_END)
            except subprocess.TimeoutExpired:
                process.kill()
            raise RuntimeError(f"the training was stopped after {most:.0f} s") from None
    return subprocess.CompletedProcess(command, process.returncode, out, said)


def rendered(session: Session, steps: Steps) -> Path:
    """The folder of the miniature's data; the first training of a session that needs them renders them."""
    return session.folder / f"data-{steps.alignment}-{steps.instruction}"


def _numbers(steps: Steps) -> list[str]:
    return [f"--{name}={getattr(steps, name)}" for name in ("alignment", "instruction", "questions")]


def losses_apart(given: Sequence[float], wanted: Sequence[float]) -> tuple[float, float]:
    """The absolute difference of the first loss, and the mean over all losses; infinite if the lengths differ."""
    if len(given) != len(wanted) or not given:
        return float("inf"), float("inf")
    apart = [abs(one - other) for one, other in zip(given, wanted, strict=True)]
    return apart[0], sum(apart) / len(apart)


def tell_losses(
    session: Session, name: str, outcome: dict[str, Any], wanted: dict[str, list[float]], bounds: tuple[float, float]
) -> None:
    """Judges the losses in two lines per stage, the first loss and the mean, against `wanted`.

    `bounds` are (first loss, mean). No optimiser step comes before the first loss.
    """
    for stage in ("stage1", "stage2"):
        first, mean = losses_apart(outcome["losses"][stage], wanted[stage])
        session.judge(f"{stage}, first loss: {name}", first, "<=", bounds[0])
        session.judge(f"{stage}, mean of {len(wanted[stage])} losses: {name}", mean, "<=", bounds[1])

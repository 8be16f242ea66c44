"""The miniature trained in processes of their own, which DeepSpeed changes, in a folder that is thrown away."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mllm_eval.gpucheck.session import Session
from mllm_eval.storage import PACKAGE, read_json

GOLDEN = PACKAGE / "gpucheck" / "golden.json"
# Rows of a step of stage 2, which several processes share.
BATCH = 16
# Beyond the budget a training may go on so long, so that one that is late is told from one that hangs.
GRACE = 120.0
# Seconds that one which is stopped has to end its processes.
TO_END = 30.0


@dataclass(frozen=True)
class Steps:
    """How much is trained, on how many rows, and how many questions of each benchmark are asked afterwards."""

    stage1: int
    stage2: int
    alignment: int
    instruction: int
    questions: int


FULL = Steps(stage1=40, stage2=60, alignment=1500, instruction=1200, questions=20)
DRY = Steps(stage1=4, stage2=4, alignment=160, instruction=160, questions=2)
# On several GPUs stage 2 is what is tried.
FULL_SEVERAL = Steps(stage1=4, stage2=100, alignment=1500, instruction=1200, questions=0)
DRY_SEVERAL = Steps(stage1=1, stage2=6, alignment=160, instruction=160, questions=0)


@dataclass(frozen=True)
class Training:
    """One training of the miniature, and what it takes on an H200 and on two CPU cores, in seconds."""

    name: str
    dtype: str
    cost: float
    dry_cost: float
    stage1: str = ""
    stage2: str = ""

    def recipe(self, steps: Steps, processes: int = 1) -> str:
        """Its yaml, for processes that share a batch of 16 evenly. What is not said is recipe `mini`'s."""
        first = f"steps: {steps.stage1}, micro_batch: {32 // processes}{self.stage1}"
        second = f"steps: {steps.stage2}, micro_batch: {min(8, BATCH // processes)}{self.stage2}"
        head = f"base: mini\nname: gpu-{self.name}\ndtype: {self.dtype}\n"
        return f"{head}stage1: {{{first}}}\nstage2: {{{second}}}\n"


LIVE = ", gradient_checkpointing: true, features: live"
PLAIN = Training("float32", "float32", 50, 30)
# Stage 1 measures features to standardise them, which it does on stored ones.
ZERO = Training("zero", "bfloat16", 60, 40, ", deepspeed: zero2", f", deepspeed: zero3{LIVE}")


def steps_of(session: Session) -> Steps:
    """The steps of a session's trainings on one device."""
    return DRY if session.dry else FULL


def golden(session: Session) -> dict[str, list[float]]:
    """The losses of each step, `stage1` and `stage2`, of the plain training in float32 on a CPU."""
    losses: dict[str, list[float]] = read_json(GOLDEN)["dry" if session.dry else "full"]
    return losses


def trained(session: Session, training: Training) -> dict[str, Any]:
    """What `mllm_eval.gpucheck.worker` tells of a training, done at the first call and never twice.

    Raises RuntimeError with the last line of what it said where it failed.
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
    """Train in new processes, under torchrun where there are several. Raises RuntimeError as `trained` does."""
    outcome = call_worker(session, training, steps, name, processes, more)
    if outcome.returncode:
        lines = [line for line in (outcome.stderr + outcome.stdout).splitlines() if line.strip()]
        # Behind it torchrun says only which of its processes failed.
        said = [line for line in lines if "Error" in line and "ChildFailed" not in line] or lines or ["it said nothing"]
        raise RuntimeError(f"the training ended with {outcome.returncode}: {said[-1].strip()[:300]}")
    result: dict[str, Any] = read_json(session.folder / f"{name}.json")
    return result


def call_worker(
    session: Session, training: Training, steps: Steps, name: str, processes: int = 1, more: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """As `run_worker`, whatever the exit code."""
    home = session.folder / name
    home.mkdir(exist_ok=True)
    recipe = home / f"gpu-{training.name}.yaml"
    recipe.write_text(training.recipe(steps, processes))
    words = [str(recipe), str(session.folder / f"{name}.json"), *_numbers(steps)]
    words += ["--planted"] if session.planted else []
    start = [sys.executable, "-W", "ignore"]
    if processes > 1:
        meeting = ["--master-addr", "127.0.0.1", "--master-port", str(_free_port())]
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
    """As subprocess.run, but torchrun is asked to end, and so takes its processes with it, after `most` seconds."""
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
    """Where the miniature's data are: the first training that needs them renders them, for all of a session."""
    return session.folder / f"data-{steps.alignment}-{steps.instruction}"


def _numbers(steps: Steps) -> list[str]:
    return [f"--{name}={getattr(steps, name)}" for name in ("alignment", "instruction", "questions")]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def losses_apart(given: Sequence[float], wanted: Sequence[float]) -> tuple[float, float]:
    """How far the first loss is off, and all on the mean. Infinite where there are more or fewer."""
    if len(given) != len(wanted) or not given:
        return float("inf"), float("inf")
    apart = [abs(one - other) for one, other in zip(given, wanted, strict=True)]
    return apart[0], sum(apart) / len(apart)


def tell_losses(
    session: Session, name: str, outcome: dict[str, Any], wanted: dict[str, list[float]], bounds: tuple[float, float]
) -> None:
    """Two lines a stage; `name` ends with whose losses are `wanted`. `bounds` are of the first loss, which no step
    stands before, and of the mean."""
    for stage in ("stage1", "stage2"):
        first, mean = losses_apart(outcome["losses"][stage], wanted[stage])
        session.judge(f"{stage}, first loss: {name}", first, "<=", bounds[0])
        session.judge(f"{stage}, mean of {len(wanted[stage])} losses: {name}", mean, "<=", bounds[1])

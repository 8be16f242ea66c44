"""Training: stage 1 trains the projector, stage 2 projector and LLM.

Both read the frozen encoder's features from the feature store, unless a stage sets `features: live`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import TYPE_CHECKING

from mllm_eval.progress import Progress
from mllm_eval.train.provenance import hold_to_its_data

if TYPE_CHECKING:
    from mllm_eval.run import Run, RunFolder

__all__ = ["check_batches", "clear_checkpoints", "hold_to_its_data", "is_trained", "prepare", "train"]


def is_trained(run: RunFolder) -> bool:
    """Whether the run's final checkpoint exists; it is written atomically. Needs no torch."""
    return (run.checkpoint / "config.json").is_file()


def clear_checkpoints(run: RunFolder) -> None:
    """Remove the intermediate checkpoints of a finished training that was killed before it removed them itself."""
    if is_trained(run):
        for number in (1, 2):
            shutil.rmtree(run.stage_dir(number) / "checkpoints", ignore_errors=True)


def check_batches(run: Run, processes: int) -> None:
    """Check, before processes are started, that both stages' batches can be divided among them.

    Raises UserError where a batch cannot.
    """
    for number, stage in ((1, run.recipe.stage1), (2, run.recipe.stage2)):
        stage.accumulation(processes, f"stage {number}")


def train(run: Run, progress: Progress | None = None, say: Callable[[str], None] | None = None) -> None:
    """Train a run unless it is trained; see `mllm_eval.train.stages.train`. torch is imported only here."""
    if is_trained(run):
        return
    from mllm_eval.train.stages import train as train_stages

    train_stages(run, progress, say)


def prepare(run: Run, say: Callable[[str], None], processes: int) -> None:
    """Do the part of training that needs no GPU; see `mllm_eval.train.stages.prepare`."""
    from mllm_eval.train.stages import prepare as prepare_stages

    prepare_stages(run, say, processes)

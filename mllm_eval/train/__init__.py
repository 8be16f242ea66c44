"""Training: stage 1 makes the projector, stage 2 projector and LLM, both from features in the store."""

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
    """Whether the run's checkpoint is there. It appears whole or not at all; needs no torch."""
    return (run.checkpoint / "config.json").is_file()


def clear_checkpoints(run: RunFolder) -> None:
    """Remove what a training that was killed behind its last step has left: large, and nothing goes on from it."""
    if is_trained(run):
        for number in (1, 2):
            shutil.rmtree(run.stage_dir(number) / "checkpoints", ignore_errors=True)


def check_batches(run: Run, processes: int) -> None:
    """That a run's batches can be divided among processes, before any of them starts.

    Raises UserError where one cannot.
    """
    for number, stage in ((1, run.recipe.stage1), (2, run.recipe.stage2)):
        stage.accumulation(processes, f"stage {number}")


def train(run: Run, progress: Progress | None = None, say: Callable[[str], None] | None = None) -> None:
    """Train what is missing of a run; see `mllm_eval.train.stages.train`. torch is loaded here, not before."""
    if is_trained(run):
        return
    from mllm_eval.train.stages import train as train_stages

    train_stages(run, progress, say)


def prepare(run: Run, say: Callable[[str], None], processes: int) -> None:
    """Do what training does before it needs a GPU; see `mllm_eval.train.stages.prepare`."""
    from mllm_eval.train.stages import prepare as prepare_stages

    prepare_stages(run, say, processes)

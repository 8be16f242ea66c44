"""Estimate what a stage writes while it trains, and check that the disk has room for it."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from mllm_eval.adapters.projector import Projector
from mllm_eval.catalog import Stage
from mllm_eval.errors import UserError
from mllm_eval.run import Run
from mllm_eval.train.stageprogress import is_made

# Two checkpoints are kept while a third is written.
AT_A_TIME = 3
# Bytes per trained parameter: AdamW's two float32 moments, and the float32 weights.
ADAM, FULL = 8, 4


def trained_parameters(run: Run, stage: Stage) -> int:
    """Return the number of parameters that a stage trains: the projector's, and the LLM's or its LoRA adapters'."""
    recipe = run.recipe
    with torch.device("meta"):
        projector = Projector(
            run.encoder.width, run.llm.width, recipe.tokens, recipe.projector, row_token=recipe.row_token
        )
    parameters = sum(parameter.numel() for parameter in projector.parameters())
    if stage.lora is not None:
        from mllm_eval.train.lora import added_parameters

        return parameters + added_parameters(run.llm, stage.lora)
    return parameters + (run.llm.params if stage.train_llm else 0)


def checkpoint_bytes(run: Run, stage: Stage) -> int:
    """Return the bytes of a checkpoint, all processes together: optimiser state and weights of trained parameters."""
    half = run.recipe.dtype == "bfloat16"
    weights = (FULL + (2 if half else FULL)) if stage.deepspeed else FULL
    return (ADAM + weights) * trained_parameters(run, stage)


def check_room(run: Run) -> None:
    """Raise UserError where the disk has no room for a run's checkpoints and its final model."""
    for number, stage in ((1, run.recipe.stage1), (2, run.recipe.stage2)):
        if is_made(run, number):
            continue
        each = checkpoint_bytes(run, stage)
        needed = min(AT_A_TIME, stage.steps or AT_A_TIME) * each
        if number == 2:
            # The final model is written before the checkpoints are removed.
            needed += (2 if run.recipe.dtype == "bfloat16" else FULL) * (run.llm.params + run.encoder.params)
        folder = run.stage_dir(number) / "checkpoints"
        free = shutil.disk_usage(_there(folder)).free + sum(
            path.stat().st_size for path in folder.rglob("*") if path.is_file()
        )
        if needed > free:
            raise UserError(
                f"{run.folder}: stage {number} writes checkpoints of {_size(each)}, {AT_A_TIME} at a time, and "
                f"needs {_size(needed)} in all; {_size(free)} are free: make room, or let MLLM_EVAL_RESULTS name "
                "another disk"
            )


def _size(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 5e7 else f"{count / 1e6:,.1f} MB"


def _there(folder: Path) -> Path:
    return next(place for place in (folder, *folder.parents) if place.exists())

"""A sharded checkpoint of DeepSpeed, and how another number of processes goes on from it."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import shutil
from pathlib import Path

SHARDS = "*_optim_states.pt"
FOLDER = "resharded"


def shards(checkpoint: Path) -> int:
    """Processes that wrote a checkpoint; 0 where it is not sharded and any number can read it."""
    return len(list(checkpoint.glob(f"global_step*/{SHARDS}")))


def resharded_copy(checkpoint: Path) -> Path:
    """Where `reshard` puts its copy of a checkpoint."""
    return checkpoint.parent / FOLDER / checkpoint.name


def reshard(checkpoint: Path) -> None:
    """Make a copy of a checkpoint in DeepSpeed's universal form, which any number of processes can read.

    It lies beside the checkpoint until the stage goes on from a checkpoint of its own. The weights of frozen
    layers are not in it: they are those that were loaded anyway.
    """
    from deepspeed.checkpoint import ds_to_universal

    (step,) = checkpoint.glob("global_step*")
    made = resharded_copy(checkpoint)
    shutil.rmtree(made.parent, ignore_errors=True)
    made.mkdir(parents=True)
    for path in checkpoint.iterdir():
        # Weights are in the converted shards.
        if path.is_file() and path.suffix != ".safetensors":
            shutil.copy2(path, made)
    workers = max(1, min(4, len(os.sched_getaffinity(0)) // 2))
    asked = argparse.Namespace(
        input_folder=str(step),
        output_folder=str(made / step.name),
        num_extract_workers=workers,
        num_merge_workers=workers,
        keep_temp_folder=False,
        strict=True,
        inject_missing_state=True,
    )
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        ds_to_universal.main(asked)


def forget(checkpoints: Path) -> None:
    """Remove a copy that `reshard` has made."""
    shutil.rmtree(checkpoints / FOLDER, ignore_errors=True)

"""Convert sharded DeepSpeed checkpoints so that another number of processes can resume from them."""

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
    """Return the number of processes that wrote a checkpoint; 0 for an unsharded one, which any number can read."""
    return len(list(checkpoint.glob(f"global_step*/{SHARDS}")))


def resharded_copy(checkpoint: Path) -> Path:
    """Return the path of the copy that `reshard` makes of a checkpoint."""
    return checkpoint.parent / FOLDER / checkpoint.name


def reshard(checkpoint: Path) -> None:
    """Copy a checkpoint into DeepSpeed's universal format, which any number of processes can read.

    The copy is kept until the resumed stage writes a checkpoint of its own. It leaves out the weights of frozen layers,
    which are loaded from their original files anyway.
    """
    from deepspeed.checkpoint import ds_to_universal

    (step,) = checkpoint.glob("global_step*")
    made = resharded_copy(checkpoint)
    shutil.rmtree(made.parent, ignore_errors=True)
    made.mkdir(parents=True)
    for path in checkpoint.iterdir():
        # The converted shards already hold the weights.
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
    """Remove the copies that `reshard` has made in a folder of checkpoints."""
    shutil.rmtree(checkpoints / FOLDER, ignore_errors=True)

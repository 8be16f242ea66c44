"""Export a checkpoint's LLM alone as a `LlamaForCausalLM`, for servers that receive embeddings."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from mllm_eval.disk import saving
from mllm_eval.errors import UserError
from mllm_eval.model.checkpoint import load_checkpoint
from mllm_eval.model.older import write_for_both


def export_llm(checkpoint: Path, to: Path) -> None:
    """Write the LLM with its tokenizer to a new folder, atomically.

    Raises:
        UserError: the folder exists already, or the checkpoint is incomplete.
    """
    if to.exists():
        raise UserError(f"{to}: is there already; name another folder")
    model = load_checkpoint(checkpoint)
    fresh = to.with_name(f".{to.name}.{os.getpid()}")
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        with saving(to):
            fresh.parent.mkdir(parents=True, exist_ok=True)
            model.llm.save_pretrained(fresh)
            model.tokenizer.save_pretrained(fresh)
            write_for_both(fresh)
            os.rename(fresh, to)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)

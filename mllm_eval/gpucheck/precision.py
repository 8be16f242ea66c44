"""Checks that a bfloat16 model keeps its dtype and its bits when it is saved as a checkpoint and loaded again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText

from mllm_eval.catalog import load_llm
from mllm_eval.gpucheck.models import TINY_CLIP, TINY_LLAMA, random_model
from mllm_eval.gpucheck.session import Session
from mllm_eval.model import load_checkpoint
from mllm_eval.model.checkpoint import load_tokenizer, save_checkpoint
from mllm_eval.model.llmexport import export_llm
from mllm_eval.model.vlm import VLM

WANTED = "torch.bfloat16"


@contextmanager
def planted() -> Iterator[None]:
    """Writes float32 into config.json, changes the tensors by 1 %, and rounds the rotary frequencies."""
    save = VLM.save_pretrained

    def written(model: Any, folder: Path, *, state_dict: dict[str, torch.Tensor], **rest: Any) -> None:
        off = {name: one * 1.01 if one.is_floating_point() else one for name, one in state_dict.items()}
        save(model, folder, state_dict=off, **rest)
        path = Path(folder) / "config.json"
        path.write_text(path.read_text().replace('"bfloat16"', '"float32"'))

    def loaded(folder: Path) -> VLM:
        model = load_checkpoint(folder)
        model.llm.model.rotary_emb.bfloat16()
        return model

    with patch.object(VLM, "save_pretrained", written), patch(f"{__name__}._loaded", loaded):
        yield


def check(session: Session) -> None:
    """Checks that bfloat16 is written and loaded, by this project and by transformers' own classes."""
    model = random_model(TINY_CLIP, TINY_LLAMA.with_words(1000), session.device)
    model.config.template = "llama_3_meta"
    model.tokenizer = load_tokenizer(load_llm("mini-llama"), "llama_3_meta")
    folder = session.folder / "checkpoint"
    save_checkpoint(model, folder)
    back = _loaded(folder).to(session.device)  # type: ignore[arg-type]  # transformers wraps it without its types
    session.judge("a bfloat16 checkpoint is loaded as", _dtypes(back), "==", WANTED)
    load: Any = AutoModelForImageTextToText.from_pretrained
    stock = load(folder, dtype="auto", local_files_only=True, trust_remote_code=False)
    session.judge("by transformers' Auto class as", _dtypes(stock), "==", WANTED)
    export_llm(folder, session.folder / "llm")
    said = AutoConfig.from_pretrained(session.folder / "llm", local_files_only=True, trust_remote_code=False)
    session.judge("its LLM, exported, says", str(said.dtype), "==", WANTED)
    session.judge("rotary frequencies are loaded as", _frequencies(back), "==", "torch.float32")
    before, after = model.state_dict(), back.state_dict()
    changed = sum(not torch.equal(tensor, after[name]) for name, tensor in before.items())
    session.judge(f"of {len(before)} tensors have other bits", changed, "==", 0)
    written = json.loads((folder / "config.json").read_text())
    session.seen("config.json's dtype", str(written.get("dtype")))


def _loaded(folder: Path) -> VLM:
    return load_checkpoint(folder)


def _dtypes(model: nn.Module) -> str:
    return ", ".join(sorted({str(one.dtype) for one in model.parameters()}))


def _frequencies(model: nn.Module) -> str:
    dtypes = {str(one.dtype) for name, one in model.named_buffers() if name.endswith("inv_freq")}
    return ", ".join(sorted(dtypes))

"""LoRA adapters of the LLM: insert them, save them in peft's format, and merge them into the weights."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict, inject_adapter_in_model
from safetensors.torch import save_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from mllm_eval.catalog import LLM, Lora
from mllm_eval.model import load_llm_model
from mllm_eval.model.outline import plain_config
from mllm_eval.train.argumentcheck import check_targets

# Prefix of tensor names in peft's adapter files.
WRAPPED = "base_model.model."


def lora_config(lora: Lora, llm: LLM) -> LoraConfig:
    """Return the recipe's adapters as a peft config that also names the LLM's base weights."""
    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # peft divides by it; its type says int
        lora_dropout=lora.dropout,
        target_modules=list(lora.targets),
        bias="none",
        task_type="CAUSAL_LM",
        base_model_name_or_path=llm.weights.repo or str(llm.weights.folder()),
        revision=llm.weights.revision,
    )


def add_lora(model: Any, lora: Lora, llm: LLM) -> None:
    """Insert adapters into a LLaMA in place, and freeze all its other parameters.

    Raises UserError where a target is no linear layer, or is tied to the input embedding.
    """
    linear = {name.rpartition(".")[2] for name, part in model.named_modules() if isinstance(part, torch.nn.Linear)}
    check_targets(lora, frozenset(linear), bool(model.config.tie_word_embeddings), "stage 2")
    model.requires_grad_(False)
    inject_adapter_in_model(lora_config(lora, llm), model)


def added_parameters(llm: LLM, lora: Lora) -> int:
    """Return the number of adapter parameters: rank x (in + out) for each target layer. Reads no weights."""
    with torch.device("meta"):
        shell: Any = LlamaForCausalLM(LlamaConfig(**plain_config(llm)))
    return sum(
        lora.r * (part.in_features + part.out_features)
        for name, part in shell.named_modules()
        if isinstance(part, torch.nn.Linear) and name.rpartition(".")[2] in lora.targets
    )


def save_adapter(model: Any, state: dict[str, Tensor], lora: Lora, llm: LLM, folder: Path) -> None:
    """Write the adapters in float32, in the format of `PeftModel.from_pretrained`; `state` is the LLM's state dict."""
    fresh = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    # Embeddings are not trained. Without this argument peft would query the hub about them.
    own = get_peft_model_state_dict(model, state_dict=state, save_embedding_layers=False)
    save_file(
        {f"{WRAPPED}{name}": tensor.float().contiguous().cpu() for name, tensor in own.items()},
        fresh / "adapter_model.safetensors",
        metadata={"format": "pt"},
    )
    config = lora_config(lora, llm)
    config.inference_mode = True
    config.save_pretrained(str(fresh))
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)


def merged_state(llm: LLM, folder: Path) -> dict[str, Tensor]:
    """Return the LLM's state dict in float32 with the adapters in `folder` merged."""
    base = load_llm_model(llm)
    merged: Any = PeftModel.from_pretrained(base, str(folder)).merge_and_unload()
    state: dict[str, Tensor] = merged.state_dict()
    return state

"""Check an LLM by its config and the headers of its files, without reading its weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from mllm_eval.adapters import weights_place
from mllm_eval.adapters.loading import first_line, hold_tensors, reshaped
from mllm_eval.catalog import LLM
from mllm_eval.catalog.gguf import DERIVED as DERIVED_IN_GGUF
from mllm_eval.catalog.gguf import is_gguf
from mllm_eval.catalog.llamaconfig import llama_config
from mllm_eval.errors import UserError
from mllm_eval.hub.gguf_header import GgufTensor
from mllm_eval.hub.safetensors_header import TensorFacts, read_header
from mllm_eval.model.dequantising import held_shapes

# RoPE frequencies that old conversions stored with the weights; they follow from the config.
DERIVED = rf"(.*\.)?rotary_emb\.inv_freq|{DERIVED_IN_GGUF}"
OUTPUT, WORDS = "lm_head.weight", "model.embed_tokens.weight"


@dataclass(frozen=True)
class Outline:
    """Facts about an LLM.

    positions: `max_position_embeddings`. activation: of its MLP. linear: names of its linear layers (e.g. `q_proj`).
    tied: whether its output layer shares the input embedding's weights.
    """

    positions: int
    activation: str
    linear: frozenset[str]
    tied: bool


def llama_outline(llm: LLM, folder: Path | None = None) -> Outline:
    """Return the outline of an LLM in a folder or GGUF file (by default its weights'), checked against its yaml.

    Raises UserError for missing weights, another architecture, or another parameter count than the yaml's. For
    safetensors and GGUF, also for tensors that are missing, unexpected or of another shape.
    """
    folder = folder or weights_place(llm.weights)
    try:
        config: Any = LlamaConfig(**plain_config(llm, folder))
        with torch.device("meta"):
            shell = LlamaForCausalLM(config)
    except UserError:
        raise
    except Exception as problem:
        said = folder if is_gguf(folder) else folder / "config.json"
        raise UserError(f"{said}: no LLaMA can be made of it ({first_line(problem)})") from problem
    tied = bool(config.tie_word_embeddings)
    wanted: dict[str, Any] = dict(shell.state_dict())
    held = _headers(folder)
    if held is not None:
        missing = wanted.keys() - held - ({OUTPUT, WORDS} if tied and {OUTPUT, WORDS} & held.keys() else set())
        hold_tensors(folder, reshaped(held, wanted), held.keys() - wanted, missing, DERIVED)
    params = sum(one.numel() for one in shell.parameters())
    if params != llm.params:
        raise UserError(
            f"llm {llm.name}: the yaml says params: {llm.params}, the weights have {params}; correct the yaml"
        )
    linear = {name.rpartition(".")[2] for name, part in shell.named_modules() if isinstance(part, nn.Linear)}
    return Outline(config.max_position_embeddings, config.hidden_act, frozenset(linear), tied)


def plain_config(llm: LLM, folder: Path | None = None) -> dict[str, Any]:
    """Return the arguments for `LlamaConfig` from an LLM's config.json. Raises UserError as `llama_config` does."""
    config = llama_config(llm, folder or weights_place(llm.weights))
    return {name: value for name, value in config.items() if name not in ("model_type", "transformers_version")}


def _headers(folder: Path) -> dict[str, TensorFacts] | dict[str, GgufTensor] | None:
    """Return tensor facts by name, from a GGUF file or safetensors as transformers reads them; None for other forms."""
    if is_gguf(folder):
        return held_shapes(folder)
    whole = folder / "model.safetensors"
    files = [whole] if whole.is_file() else sorted(folder.glob("model-*-of-*.safetensors"))
    tensors = {name: facts for path in files for name, facts in read_header(path).items()}
    # Checkpoints of a bare `LlamaModel` have no prefix `model.`.
    if tensors and not any(name.startswith("model.") for name in tensors):
        tensors = {f"model.{name}": facts for name, facts in tensors.items()}
    return tensors or None

"""Reads the header of a LLaMA's GGUF file as transformers' config.json and tensor names, without torch or weights.

The keys and names are llama.cpp's: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md and its converter
(convert_hf_to_gguf.py).
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mllm_eval.errors import UserError
from mllm_eval.hub.gguf_header import GgufHeader, read_gguf

SUFFIX = ".gguf"
# llama.cpp's key after `llama.` -> the field of a transformers config, some of which no LLaMA has.
FIELDS = {
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "attention.sliding_window": "sliding_window",
    "attention.clamp_kqv": "clip_qkv",
    "expert_count": "num_local_experts",
    "logit_scale": "logit_scale",
    "embedding_scale": "embedding_multiplier",
    "residual_scale": "residual_multiplier",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
}
# Keys that are read elsewhere, or that do not change the function.
OTHERS = (
    "vocab_size",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scale_linear",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scaling.original_context_length",
    "rope.scaling.finetuned",
    "attention.value_length",
    "attention.causal",
    "tensor_data_layout",
    "expert_used_count",
)
TEXTS = ("rope.scaling.type", "tensor_data_layout")
NEEDED = ("context_length", "embedding_length", "block_count", "feed_forward_length", "attention.head_count",
          "attention.layer_norm_rms_epsilon")  # fmt: skip
BLOCK = r"blk\.(\d+)\."
# llama.cpp's tensor name -> transformers'.
NAMES = {
    r"token_embd\.weight": "model.embed_tokens.weight",
    r"output_norm\.weight": "model.norm.weight",
    r"output\.weight": "lm_head.weight",
    BLOCK + r"attn_norm\.weight": r"model.layers.\1.input_layernorm.weight",
    BLOCK + r"ffn_norm\.weight": r"model.layers.\1.post_attention_layernorm.weight",
    BLOCK + r"attn_([qkv])\.(weight|bias)": r"model.layers.\1.self_attn.\2_proj.\3",
    BLOCK + r"attn_output\.(weight|bias)": r"model.layers.\1.self_attn.o_proj.\2",
    BLOCK + r"ffn_(gate|up|down)\.(weight|bias)": r"model.layers.\1.mlp.\2_proj.\3",
}
# Tensors that follow from the config: rotary frequencies, and the divisors that rope scaling of type llama3 uses.
FACTORS = "rope_freqs.weight"
DERIVED = rf"{re.escape(FACTORS)}|blk\.\d+\.attn_rot_embd"
# Parameters in the config.json of LLaMA 3.1 to 3.3. A file holds only the divisors computed from them; `factor` is
# the largest divisor.
LLAMA3: dict[str, float] = {
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def is_gguf(place: Path) -> bool:
    """Whether a path is a GGUF file, by its suffix."""
    return place.suffix.lower() == SUFFIX


def name_in_transformers(name: str) -> str:
    """Name of a tensor in `LlamaForCausalLM`. An unknown name is returned unchanged, and is refused when loading."""
    for pattern, target in NAMES.items():
        if match := re.fullmatch(pattern, name):
            return match.expand(target)
    return name


def gguf_config(path: Path) -> dict[str, Any]:
    """Build the config.json of the model in a GGUF file.

    For another architecture than LLaMA the config holds only its name, as `model_type`. Raises UserError for a file
    that is not GGUF, is truncated, lacks a key that a LLaMA needs, or has a key that a LLaMA does not have.
    """
    header = read_gguf(path)
    kind = header.metadata.get("general.architecture")
    if kind != "llama":
        return {"model_type": kind}
    said = {key.removeprefix("llama."): one for key, one in header.metadata.items() if key.startswith("llama.")}
    for key in NEEDED:
        if key not in said:
            raise UserError(f"{path}: has no key `llama.{key}`, which every LLaMA needs; convert the weights again")
    for key, value in said.items():
        if not isinstance(value, int | float | str):
            raise UserError(f"{path}: `llama.{key}` differs from layer to layer, a LLaMA's are all alike")
        if key in (*FIELDS, *OTHERS) and isinstance(value, str) != (key in TEXTS):
            raise UserError(
                f"{path}: `llama.{key}: {value}` is no {'text' if key in TEXTS else 'number'}; "
                "convert the weights again"
            )
        if key not in FIELDS and key not in OTHERS and value not in (0, "", "none"):
            raise UserError(f"{path}: `llama.{key}: {value}` is not known here and may change the function; use the "
                            "weights that the file was made from")  # fmt: skip
    if said.get("attention.causal", True) is not True:
        raise UserError(
            f"{path}: `llama.attention.causal: false`: each position sees all others, a LLaMA's those before"
        )
    config: dict[str, Any] = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_act": "silu"}
    config |= {FIELDS[key]: value for key, value in said.items() if key in FIELDS}
    # Stored in float32, where 1e-5 reads as 9.999999747378752e-06.
    config["rms_norm_eps"] = float(f"{config['rms_norm_eps']:.6g}")
    head = _head_width(said, path)
    config["head_dim"] = head
    config["rope_parameters"] = _rope(said, header, head, path)
    tensors = header.tensors
    words = tensors.get("token_embd.weight")
    config["vocab_size"] = words.shape[0] if words is not None else said.get("vocab_size")
    config["tie_word_embeddings"] = "output.weight" not in tensors
    config["attention_bias"] = "blk.0.attn_q.bias" in tensors
    config["mlp_bias"] = "blk.0.ffn_up.bias" in tensors
    for token in ("bos", "eos"):
        number = header.metadata.get(f"tokenizer.ggml.{token}_token_id")
        if isinstance(number, int):
            config[f"{token}_token_id"] = number
    return config


def _head_width(said: dict[str, Any], path: Path) -> int:
    head = int(said.get("attention.key_length") or said["embedding_length"] // max(1, said["attention.head_count"]))
    turned, values = said.get("rope.dimension_count", head), said.get("attention.value_length", head)
    if turned != head:
        raise UserError(f"{path}: rotary embeddings turn {turned} of {head} dimensions of a head; a LLaMA's turn all")
    if values != head:
        raise UserError(f"{path}: values are {values} wide and keys {head}; a LLaMA's are alike")
    return head


def _rope(said: dict[str, Any], header: GgufHeader, head: int, path: Path) -> dict[str, Any]:
    base = float(said.get("rope.freq_base", 10000.0))
    kind, factor = str(said.get("rope.scaling.type", "none")), said.get("rope.scaling.factor", 1.0)
    if "rope.scale_linear" in said and kind == "none":
        kind, factor = "linear", said["rope.scale_linear"]
    factors = header.tensors.get(FACTORS)
    if factors is not None:
        if kind != "none":
            raise UserError(f"{path}: scales its rotary embeddings twice, by type {kind} and by {FACTORS}")
        return {"rope_theta": base, **_llama3(_numbers(path, factors.start, factors.size), base, head, path)}
    if kind == "none" or factor == 1.0:
        return {"rope_type": "default", "rope_theta": base}
    rope = {"rope_type": kind, "rope_theta": base, "factor": float(factor)}
    if (length := said.get("rope.scaling.original_context_length")) is not None:
        rope["original_max_position_embeddings"] = length
    return rope


def _llama3(factors: NDArray[np.float32], base: float, head: int, path: Path) -> dict[str, Any]:
    """The llama3 rope parameters from which the frequency divisors [head / 2] follow. Raises UserError if none do."""
    if len(factors) == head // 2 and np.isfinite(factors).all():
        factor = float(factors.max())
        if np.allclose(factors, llama3_factors(base, head, factor), rtol=1e-4):
            return {"rope_type": "llama3", "factor": factor, **LLAMA3}
    raise UserError(
        f"{path}: {FACTORS} is not what scaling of LLaMA 3.1's type gives; use the weights it was made from"
    )


def llama3_factors(base: float, head: int, factor: float) -> NDArray[np.float64]:
    """Divisor of each rotary frequency in LLaMA 3.1's rope scaling, float64 [head / 2].

    Frequencies with long waves are divided by `factor`, those with short waves are kept, and those between are
    interpolated. Source: transformers' `_compute_llama3_parameters`.
    """
    low, high, length = (
        LLAMA3["low_freq_factor"],
        LLAMA3["high_freq_factor"],
        LLAMA3["original_max_position_embeddings"],
    )
    waves = 2 * math.pi * base ** (np.arange(0, head, 2) / head)
    smooth = np.clip((length / waves - low) / (high - low), 0, 1)
    divisors: NDArray[np.float64] = 1 / ((1 - smooth) / factor + smooth)
    return divisors


def _numbers(path: Path, start: int, size: int) -> NDArray[np.float32]:
    with open(path, "rb") as file:
        file.seek(start)
        return np.frombuffer(file.read(size), "<f4")

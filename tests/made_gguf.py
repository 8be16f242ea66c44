"""A tiny LLaMA as a GGUF file, written by the package gguf as llama.cpp's converter does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from tokenizers import pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM

from mllm_eval.catalog import LLM

MARKS = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
CHATML = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MERGED = ["\u0120t", "\u0120\u0120"]
CHAT = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "{{ '<|im_start|>system\nBe kind<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
WIDTH, HEADS, KV_HEADS = 64, 4, 2
NAMES = {
    "embed_tokens": "token_embd",
    "norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "q_proj": "attn_q",
    "k_proj": "attn_k",
    "v_proj": "attn_v",
    "o_proj": "attn_output",
    "gate_proj": "ffn_gate",
    "up_proj": "ffn_up",
    "down_proj": "ffn_down",
}


def vocabulary(marks: list[str]) -> list[str]:
    return [*sorted(pre_tokenizers.ByteLevel.alphabet()), *MERGED, *marks]


def make_model(tied: bool = True, vocab: int = 263, **changes: Any) -> LlamaForCausalLM:
    torch.manual_seed(8)
    sizes: dict[str, Any] = {
        "vocab_size": vocab,
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": tied,
        "rope_parameters": {"rope_type": "default", "rope_theta": 50000.0},
    }
    model = LlamaForCausalLM(LlamaConfig(**{**sizes, **changes})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def laid_out(tensor: torch.Tensor, heads: int) -> torch.Tensor:
    """The rows of queries or keys as llama.cpp's convert_hf_to_gguf.py lays them."""
    return tensor.reshape(heads, 2, -1, *tensor.shape[1:]).swapaxes(1, 2).reshape(tensor.shape)


def write_gguf(
    path: Path,
    model: LlamaForCausalLM,
    kind: str = "F32",
    arch: str = "llama",
    marks: list[str] = MARKS,
    pre: str = "llama-bpe",
    change: Callable[[Any], None] | None = None,
    lose: str = "",
    chat: str | None = None,
) -> Path:
    """A file as llama.cpp's converter writes it, by the package's own writer."""
    writer, config = gguf.GGUFWriter(path, arch), model.config
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(WIDTH // HEADS)
    tokens = vocabulary(marks)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in marks else 1 for token in tokens])
    writer.add_token_merges([f"{one[0]} {one[1]}" for one in MERGED])
    writer.add_bos_token_id(len(tokens) - len(marks))
    writer.add_eos_token_id(len(tokens) - 1)
    if chat is not None:
        writer.add_chat_template(chat)
    if change is not None:
        change(writer)
    for name, tensor in model.state_dict().items():
        parts = name.split(".")
        if parts[0] == "lm_head" and config.tie_word_embeddings:
            continue
        own = NAMES[parts[-2]] if parts[-2] in NAMES else NAMES[parts[0]]
        target = f"blk.{parts[2]}.{own}.{parts[-1]}" if "layers" in parts else f"{own}.{parts[-1]}"
        if target == lose:
            continue
        heads = {"q_proj": HEADS, "k_proj": KV_HEADS}.get(parts[-2])
        values = (laid_out(tensor, heads) if heads else tensor).float().numpy()
        used = gguf.GGMLQuantizationType[kind if values.ndim > 1 else "F32"]
        writer.add_tensor(target, gguf.quants.quantize(np.ascontiguousarray(values), used), raw_dtype=used)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def llm_of(path: Path, model: LlamaForCausalLM, kind: str = "F32", **changes: Any) -> LLM:
    config = model.config
    shape = {"heads": HEADS, "kv_heads": KV_HEADS, "hidden": 2 * WIDTH, "tied": config.tie_word_embeddings,
             "rope_base": 50000, "norm_eps": 1e-5}  # fmt: skip
    fields: dict[str, Any] = {
        "name": "tiny",
        "weights": {"path": str(path)},
        "params": sum(one.numel() for one in model.parameters()),
        "width": WIDTH,
        "depth": 2,
        "vocab": config.vocab_size,
        "architecture": {**shape, **changes.pop("architecture", {})},
        "quantisation": kind,
    }
    return LLM(**{**fields, **changes})

"""Checks by config.json or GGUF header that weights are the LLaMA of the yaml, without torch or weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mllm_eval.catalog.gguf import gguf_config, is_gguf
from mllm_eval.catalog.llm import LLM
from mllm_eval.errors import UserError
from mllm_eval.hub.gguf_header import read_gguf
from mllm_eval.storage import parse_json

# Rotary embeddings that depend only on a token's position. Types that also depend on the length of the prompt
# (dynamic, longrope) would change a prefix that several prompts share.
ROPES = ("default", "linear", "llama3", "yarn")
# Defaults of transformers' LlamaConfig for a config without these fields.
ROPE_BASE, NORM_EPS = 10000.0, 1e-6

# Fields of other decoders' configs that change the function and that the LLaMA class ignores, with the values that
# leave a LLaMA unchanged. None and false always do.
FOREIGN: dict[str, tuple[Any, ...]] = {
    # Which positions are attended to.
    "attention_chunk_size": (),
    "no_rope_layers": ([],),
    "no_rope_layer_interval": (0,),
    "use_alibi": (),
    "alibi": (),
    # How queries, keys and scores are scaled.
    "attention_multiplier": (),
    "attn_logit_softcapping": (0,),
    "clip_qkv": (),
    "final_logit_softcapping": (0,),
    "partial_rotary_factor": (1,),
    "qk_layernorm": (),
    "qk_norm": (),
    "query_pre_attn_scalar": (),
    "rotary_pct": (1,),
    "use_qk_norm": (),
    # How states and logits are scaled.
    "dim_model_base": (),
    "embedding_multiplier": (1,),
    "logit_scale": (1,),
    "logits_scaling": (1,),
    "mup_width_scale": (1,),
    "residual_multiplier": (1,),
    "scale_depth": (),
    "scale_emb": (1,),
    # Other blocks.
    "kv_lora_rank": (0,),
    "n_routed_experts": (0,),
    "num_experts": (0, 1),
    "num_local_experts": (0, 1),
    "parallel_attn": (),
    "use_parallel_residual": (),
}


def read_config(folder: Path) -> dict[str, Any]:
    """Read config.json of a hub-format folder. Raises UserError if it is unreadable, or the weights are quantised."""
    path = folder / "config.json"
    try:
        config = parse_json(path.read_text(encoding="utf-8"), fields_once=False)
    except (OSError, ValueError) as problem:
        raise UserError(f"{path}: cannot be read as a model's config ({problem})") from None
    if not isinstance(config, dict):
        raise UserError(f"{path}: holds a {type(config).__name__}, not a model's config")
    refuse_quantised(config, path)
    return config


def refuse_quantised(config: dict[str, Any], path: Path) -> None:
    """Raise UserError if the config says that the weights are quantised. Of quantised weights, only GGUF is read."""
    said = config.get("quantization_config")
    if said:
        method = said.get("quant_method", "unnamed") if isinstance(said, dict) else said
        raise UserError(f"{path}: the weights are quantised ({method}); use those they were made from")


def llama_config(llm: LLM, folder: Path) -> dict[str, Any]:
    """Read the config of an LLM's weights (config.json or a GGUF file), and check it against the yaml.

    The check is needed because many architectures use a LLaMA's tensor names and would load without an error.
    Raises UserError for another architecture, a field that changes the function and that a LLaMA does not have,
    quantised weights other than GGUF, and sizes or a quantisation that differ from the yaml.
    """
    if is_gguf(folder):
        path, config = folder, gguf_config(folder)
    elif folder.is_file():
        raise UserError(f"{folder}: is one file; an LLM is a folder in the hub's format, or a file in GGUF (.gguf)")
    else:
        path, config = folder / "config.json", read_config(folder)
    kind, classes = config.get("model_type"), config.get("architectures") or []
    if kind != "llama":
        raise UserError(f"{path}: the weights are of type {kind!r}, llm {llm.name} must be 'llama'")
    if not isinstance(classes, list):
        raise UserError(f"{path}: `architectures` is a {type(classes).__name__}, not a list; fetch it again")
    if classes and not any(str(one).lower() == "llamaforcausallm" for one in classes):
        raise UserError(f"{path}: the weights are of {classes[0]}, llm {llm.name} must be a LlamaForCausalLM")
    _refuse_foreign(config, path)
    _check_rope(config, path)
    _compare(llm, config, path)
    _compare_quantisation(llm, path)
    return config


def _compare_quantisation(llm: LLM, path: Path) -> None:
    quantisation = read_gguf(path).quantisation if is_gguf(path) else None
    if quantisation != llm.quantisation:
        kept = f"keeps its matrices as {quantisation}" if quantisation else "is not of a GGUF file"
        mend = f"say `quantisation: {quantisation}`" if quantisation else "leave it out"
        stated = f"quantisation: {llm.quantisation}" if llm.quantisation else "no quantisation"
        raise UserError(f"{path}: {kept}, the yaml of llm {llm.name} says {stated}; {mend}")


def _refuse_foreign(config: dict[str, Any], path: Path) -> None:
    for name, neutral in FOREIGN.items():
        value = config.get(name)
        if value is not None and value is not False and value not in neutral:
            raise UserError(f"{path}: `{name}: {value}` is no LLaMA's and would be left out; use a LLaMA's weights")
    window, longest = config.get("sliding_window"), config.get("max_position_embeddings")
    # A window at least as long as the longest prompt has no effect.
    if window and config.get("use_sliding_window", True) and not (isinstance(longest, int) and window >= longest):
        raise UserError(
            f"{path}: `sliding_window: {window}` is no LLaMA's: every position here sees all before it; "
            "use a LLaMA's weights"
        )
    listed = config.get("layer_types") or []
    if not isinstance(listed, list) or not all(isinstance(one, str) for one in listed):
        raise UserError(f"{path}: `layer_types` is no list of names; fetch it again")
    kinds = set(listed) - {"full_attention"}
    if kinds:
        raise UserError(f"{path}: `layer_types` has {min(kinds)}, a LLaMA's layers are all full_attention")


def _check_rope(config: dict[str, Any], path: Path) -> None:
    for field in ("rope_parameters", "rope_scaling"):
        rope = config.get(field) or {}
        if not isinstance(rope, dict) or any(isinstance(value, dict) for value in rope.values()):
            raise UserError(f"{path}: `{field}` is not one rotary embedding for all layers, as a LLaMA has")
        kind = rope.get("rope_type") or rope.get("type") or "default"
        if kind not in ROPES:
            raise UserError(f"{path}: `{field}` is of type {kind!r}; a LLaMA is computed with {', '.join(ROPES)}")
        part = rope.get("partial_rotary_factor")
        if part not in (None, 1):
            raise UserError(f"{path}: `partial_rotary_factor: {part}` is no LLaMA's, which turns whole heads")


def _compare(llm: LLM, config: dict[str, Any], path: Path) -> None:
    said: dict[str, tuple[str, Any]] = {
        "hidden_size": ("width", llm.width),
        "num_hidden_layers": ("depth", llm.depth),
        "vocab_size": ("vocab", llm.vocab),
    }
    heads = config.get("num_attention_heads")
    defaults = {"num_key_value_heads": heads, "head_dim": None, "tie_word_embeddings": False}
    defaults |= {name: value for name, value in config.items() if value is not None}
    if (shape := llm.architecture) is not None:
        said["num_attention_heads"] = ("architecture.heads", shape.heads)
        said["num_key_value_heads"] = ("architecture.kv_heads", shape.kv_heads)
        said["intermediate_size"] = ("architecture.hidden", shape.hidden)
        said["tie_word_embeddings"] = ("architecture.tied", shape.tied)
        if defaults["head_dim"] is not None:
            said["head_dim"] = ("architecture.head", shape.head or llm.width // shape.heads)
        if shape.rope_base is not None:
            rope = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
            defaults["rope_theta"] = rope.get("rope_theta", defaults.get("rope_theta", ROPE_BASE))
            said["rope_theta"] = ("architecture.rope_base", shape.rope_base)
        if shape.norm_eps is not None:
            defaults.setdefault("rms_norm_eps", NORM_EPS)
            said["rms_norm_eps"] = ("architecture.norm_eps", shape.norm_eps)
    for key, (name, value) in said.items():
        if defaults.get(key) != value:
            raise UserError(f"{path}: {key} is {defaults.get(key)}, the yaml of llm {llm.name} says {name}: {value}; "
                            "correct it")  # fmt: skip

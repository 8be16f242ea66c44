"""All uses of transformers' LLaMA internals, collected here because they may change with any version.

They are the decoder layer's parts, the cache's layers, the registry of attention functions and the hook of activation
checkpointing. `fault` tests whether the installed transformers still has them in this form. If not, training and
generation use the public interface, which gives the same results in more time.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
import transformers
from torch import Tensor

_gone: str | None = None
try:
    from transformers import AttentionInterface
    from transformers.cache_utils import Cache, CacheLayerMixin
    from transformers.masking_utils import create_causal_mask
    from transformers.models.llama.modeling_llama import repeat_kv, rotate_half
except ImportError as problem:
    _gone = str(problem)
    Cache = CacheLayerMixin = object  # type: ignore[misc, assignment]

Rotary = tuple[Tensor, Tensor]
"""Cosines and sines of RoPE, which broadcast with queries and keys [..., heads, head width]."""


# ---- the block ----
def rotate(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply RoPE to queries or keys as transformers' LLaMA does; the arguments are broadcast."""
    rotated: Tensor = states * cos + rotate_half(states) * sin  # type: ignore[no-untyped-call]
    return rotated


def project_queries(attention: Any, normed: Tensor, rotary: Rotary) -> Tensor:
    """Return queries [..., heads, width], with RoPE, of normed states [..., H]."""
    return rotate(attention.q_proj(normed).unflatten(-1, (-1, attention.head_dim)), *rotary)


def project_keys_values(attention: Any, normed: Tensor, rotary: Rotary) -> tuple[Tensor, Tensor]:
    """Return keys, with RoPE, and values [..., key heads, width] of normed states [..., H]."""
    key = attention.k_proj(normed).unflatten(-1, (-1, attention.head_dim))
    value = attention.v_proj(normed).unflatten(-1, (-1, attention.head_dim))
    return rotate(key, *rotary), value


def repeat_key_heads(attention: Any, states: Tensor) -> Tensor:
    """Repeat keys or values [B, key heads, N, width] to [B, query heads, N, width]."""
    repeated: Tensor = repeat_kv(states, attention.num_key_value_groups)
    return repeated


def behind_attention(layer: Any, states: Tensor, mixed: Tensor) -> Tensor:
    """Return a layer's output [..., H], given its input `states` [..., H] and attention `mixed` [..., heads, width]."""
    here = states + layer.self_attn.o_proj(mixed.flatten(-2))
    through: Tensor = here + layer.mlp(layer.post_attention_layernorm(here))
    return through


def below_last(model: Any, embeds: Tensor, cache: Any = None) -> tuple[Tensor, Rotary]:
    """Return the input [B, N, H] of a `LlamaModel`'s last layer, and RoPE's cosines and sines [1, N, 1, width].

    embeds: [B, N, H], from position 0 on; attention is causal, so padding must be on the right.
    cache: empty; receives the keys and values of all layers but the last. Submodules are called as modules, so that
    hooks of sharding, adapters, activation checkpointing and fused kernels still apply.
    """
    positions = torch.arange(embeds.shape[1], device=embeds.device)[None]
    cos, sin = model.rotary_emb(embeds, position_ids=positions)
    mask = create_causal_mask(
        config=model.config,
        inputs_embeds=embeds,
        attention_mask=None,
        past_key_values=cache,
        position_ids=positions,
    )
    states = embeds
    for layer in model.layers[:-1]:
        states = layer(
            states,
            attention_mask=mask,
            position_ids=positions,
            position_embeddings=(cos, sin),
            past_key_values=cache,
            use_cache=cache is not None,
        )
    return states, (cos[:, :, None], sin[:, :, None])


def checkpointed(layer: Any, through: Callable[..., Tensor], *given: Any) -> Tensor:
    """Return `through(layer, *given)`, with activation checkpointing if the layer is set to it."""
    if layer.gradient_checkpointing and layer.training:
        states: Tensor = layer._gradient_checkpointing_func(through, layer, *given)
    else:
        states = through(layer, *given)
    return states


# ---- attention by one's own function ----
def register_attention(name: str, forward: Callable[..., tuple[Tensor, None]]) -> None:
    """Register `forward` as an attention function of transformers; it also receives a layer's keyword arguments."""
    if _gone is None:
        AttentionInterface.register(name, forward)


@contextmanager
def attending_by(name: str, llm: Any) -> Iterator[None]:
    """Make the model use the attention function of that name inside the context."""
    before = llm.config._attn_implementation
    llm.config._attn_implementation = name
    try:
        yield
    finally:
        llm.config._attn_implementation = before


# ---- keys and values ----
class _Layer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """Keys and values [rows, key heads, room, width] of a layer; the first `length` tokens are in use."""

    is_sliding = False
    keys: Tensor
    values: Tensor

    def __init__(self, room: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.room, self.length = room, 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.keys = key_states.new_empty(*key_states.shape[:2], self.room, key_states.shape[-1])
        self.values = value_states.new_empty(*value_states.shape[:2], self.room, value_states.shape[-1])
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start, end = self.length, self.length + key_states.shape[-2]
        if end > self.room:
            self.room = max(end, 2 * self.room)
            self.keep(slice(None))
        self.keys[:, :, start:end] = key_states
        self.values[:, :, start:end] = value_states
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def keep(self, rows: Tensor | slice) -> None:
        """Keep only these rows, in memory for `room` tokens."""
        used = self.keys[:, :, : self.length][rows], self.values[:, :, : self.length][rows]
        self.lazy_initialization(*used)
        self.keys[:, :, : self.length], self.values[:, :, : self.length] = used

    def get_seq_length(self) -> int:
        return self.length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.length + query_length, 0

    def get_max_length(self) -> int:
        return -1


class KeyValues(Cache):
    """Key-value cache of a LLaMA with `depth` layers, from which finished rows can be removed.

    Memory is allocated for `room` tokens in advance, whereas `DynamicCache` copies its contents for every new token.
    """

    def __init__(self, depth: int, room: int) -> None:
        self.held = [_Layer(room) for _ in range(depth)]
        super().__init__(layers=[*self.held])

    def keep(self, rows: Tensor) -> None:
        """Keep only the rows with these indices, in this order."""
        for layer in self.held:
            layer.keep(rows)


# ---- whether all this is still so ----
@cache
def fault() -> str | None:
    """Return a sentence on the first internal that the installed transformers has changed; None if there is none.

    Each internal is compared with the public interface on a random LLaMA of two layers. torch's random state is
    restored afterwards.
    """
    if _gone is not None:
        return f"a part of LLaMA is gone in transformers {transformers.__version__} ({_gone})"
    for name, check in (("block", _check_block), ("attention", _check_attention), ("cache", _check_cache)):
        try:
            with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
                # Deprecation warnings about internals do not concern the user.
                warnings.simplefilter("ignore")
                check()
        except Exception as problem:
            first = (str(problem).strip() or type(problem).__name__).splitlines()[0]
            return f"the {name} of LLaMA is another one in transformers {transformers.__version__} ({first})"
    return None


def _small() -> tuple[Any, Tensor]:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=8,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    llm: Any = transformers.LlamaForCausalLM(config)
    return llm.double().eval(), torch.randn(2, 5, 16, dtype=torch.float64)


def _check_block() -> None:
    llm, embeds = _small()
    model, layer = llm.model, llm.model.layers[-1]
    states, rotary = below_last(model, embeds)
    attention, normed = layer.self_attn, layer.input_layernorm(states)
    query = project_queries(attention, normed, rotary).transpose(1, 2)
    key, value = (
        repeat_key_heads(attention, one.transpose(1, 2)) for one in project_keys_values(attention, normed, rotary)
    )
    sdpa = torch.nn.functional.scaled_dot_product_attention
    mixed = sdpa(query, key, value, is_causal=True, scale=attention.scaling).transpose(1, 2)
    ours = model.norm(behind_attention(layer, states, mixed))
    torch.testing.assert_close(ours, model(inputs_embeds=embeds).last_hidden_state)
    llm.gradient_checkpointing_enable()
    llm.train()
    runs: list[int] = []

    def through(own: Any, given: Tensor) -> Tensor:
        runs.append(1)
        return own.mlp(given)  # type: ignore[no-any-return]

    torch.autograd.grad(checkpointed(layer, through, embeds.requires_grad_()).sum(), embeds)
    if len(runs) != 2:
        raise ValueError("checkpointing computes nothing again")


def _check_attention() -> None:
    llm, embeds = _small()
    seen: list[object] = []

    def forward(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, scaling: float, **given: Any) -> Any:
        seen.append((given["own"], module.layer_idx))
        return query.transpose(1, 2).contiguous(), None

    register_attention("mllm_eval_check", forward)
    with attending_by("mllm_eval_check", llm):
        rotary = llm.model.rotary_emb(embeds, position_ids=torch.arange(5)[None])
        for layer in llm.model.layers:
            layer(embeds, position_embeddings=rotary, own="given")
    if seen != [("given", 0), ("given", 1)]:
        raise ValueError("layers do not hand on what they are called with")


def _check_cache() -> None:
    llm, embeds = _small()
    own = KeyValues(2, 3)
    expected = llm.model(inputs_embeds=embeds).last_hidden_state[:, -1]
    llm.model(inputs_embeds=embeds[:, :4], past_key_values=own, use_cache=True)
    ours = llm.model(inputs_embeds=embeds[:, 4:], past_key_values=own, use_cache=True).last_hidden_state[:, -1]
    torch.testing.assert_close(ours, expected)

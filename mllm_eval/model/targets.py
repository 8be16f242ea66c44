"""Compute a LLaMA's last hidden states only at the positions that the loss uses.

Training uses the states before targets, which are a few of a hundred positions. Lower layers are needed at all earlier
positions, since later ones attend to them, but not after a row's last used position. So padding and rows without
targets are skipped. The last layer's queries, attention and MLP are needed at the used positions only.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mllm_eval.model.internals import (
    Rotary,
    behind_attention,
    checkpointed,
    project_keys_values,
    project_queries,
    repeat_key_heads,
)


def states_before_targets(model: Any, embeds: Tensor, used: Tensor) -> Tensor:
    """Return the final hidden states [T, H] of a `LlamaModel` at the T positions where `used` [B, N] is true.

    embeds: [B, N, H], padded on the right. used: bool. The states are ordered row by row, and equal those of
    `LlamaModel.forward` over each row alone, except for rounding. Submodules are called as modules, so that hooks of
    sharding, adapters, activation checkpointing and fused kernels still apply.
    """
    places = torch.arange(1, embeds.shape[1] + 1, device=embeds.device)
    # At least one position per row, since with sharded weights every rank must run every layer.
    ends = (used * places).amax(1).clamp(min=1)
    inside = places <= ends[:, None]
    lengths: list[int] = ends.tolist()
    at = used[inside].nonzero()[:, 0]
    counts: list[int] = used.sum(1).tolist()
    states = embeds[inside]
    positions = (places - 1).expand_as(inside)[inside]
    cos, sin = model.rotary_emb(states[None], position_ids=positions[None])
    rotary = cos[0, :, None], sin[0, :, None]
    for layer in model.layers[:-1]:
        states = checkpointed(layer, _layer, states, rotary, lengths)
    states = checkpointed(model.layers[-1], _last_layer, states, rotary, lengths, at, positions[at], counts)
    normed: Tensor = model.norm(states)
    return normed


def _layer(layer: Any, states: Tensor, rotary: Rotary, lengths: list[int]) -> Tensor:
    """Return a layer's output [P, H] for states [P, H] of concatenated rows of these lengths."""
    attention = layer.self_attn
    normed = layer.input_layernorm(states)
    query = project_queries(attention, normed, rotary)
    key, value = project_keys_values(attention, normed, rotary)
    rows = zip(*(_rows(one, lengths) for one in (query, key, value)), strict=True)
    mixed = [_attend(attention, *row, is_causal=True) for row in rows]
    return behind_attention(layer, states, torch.cat(mixed, 2)[0].transpose(0, 1))


def _last_layer(
    layer: Any,
    states: Tensor,
    rotary: Rotary,
    lengths: list[int],
    at: Tensor,
    positions: Tensor,
    counts: list[int],
) -> Tensor:
    """Return the last layer's output [T, H] at the used states, given by their indices `at` [T].

    positions: [T], their positions within their rows. counts: number of used states per row.
    """
    attention = layer.self_attn
    cos, sin = rotary
    normed = layer.input_layernorm(states)
    query = project_queries(attention, normed[at], (cos[at], sin[at]))
    key, value = project_keys_values(attention, normed, rotary)
    rows = zip(
        _rows(query, counts), _rows(key, lengths), _rows(value, lengths), torch.split(positions, counts), strict=True
    )
    mixed = []
    for one, keys, values, last in rows:
        seen = torch.arange(keys.shape[2], device=at.device) <= last[:, None]
        mixed.append(_attend(attention, one, keys, values, attn_mask=seen) if len(last) else one)
    return behind_attention(layer, states[at], torch.cat(mixed, 2)[0].transpose(0, 1))


def _rows(states: Tensor, lengths: list[int]) -> list[Tensor]:
    """Split states [P, heads, width] of concatenated rows into one [1, heads, length, width] per row."""
    return [row.transpose(0, 1)[None] for row in torch.split(states, lengths)]


def attends_in_float32(device: torch.device) -> bool:
    """Whether attention on this device is always computed in float32.

    On CPUs, half-precision kernels are prepared again for each row length, which takes longer than the computation.
    """
    return device.type == "cpu"


def _attend(attention: Any, query: Tensor, key: Tensor, value: Tensor, **seen: Any) -> Tensor:
    if not attends_in_float32(query.device):
        return _fused(attention, query, key, value, **seen)
    with torch.autocast(query.device.type, enabled=False):
        return _fused(attention, query.float(), key.float(), value.float(), **seen).to(query.dtype)


def _fused(attention: Any, query: Tensor, key: Tensor, value: Tensor, **seen: Any) -> Tensor:
    # Key heads are repeated because no fused GPU kernel supports both a mask and grouped-query attention.
    return F.scaled_dot_product_attention(
        query,
        repeat_key_heads(attention, key),
        repeat_key_heads(attention, value),
        dropout_p=attention.attention_dropout if attention.training else 0.0,
        scale=attention.scaling,
        **seen,
    )

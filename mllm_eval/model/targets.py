"""A LLaMA's last hidden states where they are used, and nothing that they do not depend on.

Training uses the states before targets, a few of a hundred positions. What stands below needs every position before
them, since later ones attend to it, and none behind a row's last one: neither the padding of a batch nor a row without
a target is computed. Of the last layer, queries, attention, output and MLP are needed at the used positions alone.
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
    """The final states [T, H] of a `LlamaModel` at the T positions where `used` [B, N] is true, row by row.

    embeds: [B, N, H], padded on the right. The sums are those of `LlamaModel.forward` over each row by itself; parts of
    layers are called as modules, so that sharding, adapters, checkpointing and fused kernels that hook into them stay
    in force.
    """
    places = torch.arange(1, embeds.shape[1] + 1, device=embeds.device)
    # At least one position of each row: processes that share weights all have to use them.
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
    """What the layer gives [P, H] of the states [P, H] of rows of these lengths, one after another."""
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
    """What the layer gives [T, H] at the used states `at` [T], which stand at these positions of their rows.

    counts: how many of each row are used.
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
    """States [P, heads, width] of rows one after another as one [1, heads, length, width] a row."""
    return [row.transpose(0, 1)[None] for row in torch.split(states, lengths)]


def attends_in_float32(device: torch.device) -> bool:
    """Whether attention is computed in float32 there, whatever the precision of the rest.

    A CPU's kernels of half precision are prepared anew for each length of a row, which takes longer than computing.
    """
    return device.type == "cpu"


def _attend(attention: Any, query: Tensor, key: Tensor, value: Tensor, **seen: Any) -> Tensor:
    if not attends_in_float32(query.device):
        return _fused(attention, query, key, value, **seen)
    with torch.autocast(query.device.type, enabled=False):
        return _fused(attention, query.float(), key.float(), value.float(), **seen).to(query.dtype)


def _fused(attention: Any, query: Tensor, key: Tensor, value: Tensor, **seen: Any) -> Tensor:
    # Heads of keys and values are repeated here: GPUs have no fast attention for a mask and grouped heads at once.
    return F.scaled_dot_product_attention(
        query,
        repeat_key_heads(attention, key),
        repeat_key_heads(attention, value),
        dropout_p=attention.attention_dropout if attention.training else 0.0,
        scale=attention.scaling,
        **seen,
    )

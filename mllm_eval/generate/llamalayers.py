"""Forward passes of a LLaMA that skip what generation does not use of the last layer.

Generation needs the last layer's keys and values at every position, but its queries, attention and MLP only at the
last position of a row, where the next token is chosen. In a shared prefix it needs the latter nowhere.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mllm_eval.generate.attention import SharedPrefixes, Span, attend_to_both
from mllm_eval.model.internals import (
    KeyValues,
    Rotary,
    behind_attention,
    below_last,
    project_keys_values,
    project_queries,
)


def fill(model: Any, inputs: Tensor, cache: KeyValues) -> None:
    """Compute the keys and values of embeddings [B, N, H] with causal attention, and put them into an empty cache.

    `model` is a `LlamaModel`. The embeddings begin at position 0.
    """
    states, rotary = below_last(model, inputs, cache)
    last = model.layers[-1]
    _keys_and_values(last, last.input_layernorm(states), rotary, cache)


def newest_states(
    model: Any,
    inputs: Tensor,
    positions: Tensor,
    mask: Tensor,
    cache: KeyValues,
    prefixes: SharedPrefixes,
    row_prefixes: list[Span],
) -> Tensor:
    """Return the final hidden states [rows, H] at the last position of embeddings [rows, N, H].

    `positions`: [rows, N]. `mask` [rows, 1, N, M] is added to the scores of the M tokens in the cache, the new ones
    included. All positions attend to the whole of their prefix. To be called within `shared_prefix_attention`.
    """
    rotary = model.rotary_emb(inputs, position_ids=positions)
    states = inputs
    for layer in model.layers[:-1]:
        states = layer(
            states,
            attention_mask=mask,
            position_embeddings=rotary,
            position_ids=positions,
            past_key_values=cache,
            prefixes=prefixes,
            row_prefixes=row_prefixes,
        )
    last = model.layers[-1]
    attention = last.self_attn
    normed = last.input_layernorm(states)
    cos, sin = (one[:, :, None] for one in rotary)
    key, value = _keys_and_values(last, normed, (cos, sin), cache)
    query = project_queries(attention, normed[:, -1:], (cos[:, -1:], sin[:, -1:])).transpose(1, 2)
    here = prefixes.of_layer(attention.layer_idx, row_prefixes)
    mixed = attend_to_both(query, key, value, mask[:, :, -1:], attention.scaling, here)
    states_behind: Tensor = model.norm(behind_attention(last, states[:, -1], mixed.transpose(1, 2)[:, 0]))
    return states_behind


def _keys_and_values(layer: Any, normed: Tensor, rotary: Rotary, cache: KeyValues) -> tuple[Tensor, Tensor]:
    attention = layer.self_attn
    key, value = (states.transpose(1, 2) for states in project_keys_values(attention, normed, rotary))
    both: tuple[Tensor, Tensor] = cache.update(key, value, attention.layer_idx)
    return both

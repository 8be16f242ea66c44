"""A LLaMA's last hidden states where they are used, and nowhere else.

Training uses the states before targets, a few of a hundred positions. What stands below needs every position, since
later ones attend to it; of the last layer, queries, attention, output and MLP are needed at the used positions alone.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.models.llama.modeling_llama import repeat_kv

from mllm_eval.model.layers import below_last, turned


def states_before_targets(model: Any, embeds: Tensor, used: Tensor) -> Tensor:
    """The final states [T, H] of a `LlamaModel` at the T positions where `used` [B, N] is true, row by row.

    embeds: [B, N, H], padded on the right. The sums are those of `LlamaModel.forward`, the last layer's at other
    positions left out; gradient checkpointing is kept.
    """
    # No cache of keys and values: nothing comes after this pass.
    states, rotary = below_last(model, embeds)
    last = model.layers[-1]
    if last.gradient_checkpointing and model.training:
        states = last._gradient_checkpointing_func(_last_layer, last, states, rotary, used)
    else:
        states = _last_layer(last, states, rotary, used)
    found: Tensor = model.norm(states)
    return found


def _last_layer(layer: Any, states: Tensor, rotary: tuple[Tensor, Tensor], used: Tensor) -> Tensor:
    """What the layer gives at the used positions [T, H], from the states [B, N, H] below it."""
    attention = layer.self_attn
    batch, length, _ = states.shape
    normed = layer.input_layernorm(states)
    rows, at = used.nonzero(as_tuple=True)
    cos, sin = rotary
    query = attention.q_proj(normed[rows, at]).unflatten(-1, (-1, attention.head_dim))
    key = attention.k_proj(normed).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
    value = attention.v_proj(normed).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
    query = turned(query, cos[0, at, None], sin[0, at, None])
    key = turned(key, cos[:, None], sin[:, None])

    # The used positions of each row side by side, filled up to the longest row's number of them.
    slot = used.cumsum(1)[rows, at] - 1
    most = max(1, int(used.sum(1).max()))
    queries = query.new_zeros(batch, most, *query.shape[1:]).index_put((rows, slot), query)
    last_seen = at.new_zeros(batch, most).index_put((rows, slot), at)
    seen = torch.arange(length, device=at.device) <= last_seen[..., None]
    # Heads of keys and values are repeated here: GPUs have no fast attention for a mask and grouped heads at once.
    mixed = F.scaled_dot_product_attention(
        queries.transpose(1, 2),
        repeat_kv(key, attention.num_key_value_groups),
        repeat_kv(value, attention.num_key_value_groups),
        attn_mask=seen[:, None],
        dropout_p=attention.attention_dropout if attention.training else 0.0,
        scale=attention.scaling,
    )
    output = attention.o_proj(mixed.transpose(1, 2)[rows, slot].flatten(1))
    here = states[rows, at] + output
    found: Tensor = here + layer.mlp(layer.post_attention_layernorm(here))
    return found

"""A LLaMA's layers one by one, for those who need not all that the last one gives."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.masking_utils import create_causal_mask
from transformers.models.llama.modeling_llama import rotate_half

Rotary = tuple[Tensor, Tensor]
"""Cosines and sines [1 or B, N, head width]."""


def below_last(model: Any, embeds: Tensor, cache: Any = None) -> tuple[Tensor, Rotary]:
    """The states [B, N, H] that the last layer of a `LlamaModel` gets, and the rotary embedding of their positions.

    embeds: [B, N, H], rows from their beginning; every position sees those before it, so padding belongs on the right.
    An empty `cache` gets the keys and values of these layers. Parts of layers are called as modules, so that sharding,
    adapters, checkpointing and fused kernels that hook into them stay in force.
    """
    positions = torch.arange(embeds.shape[1], device=embeds.device)[None]
    rotary: Rotary = model.rotary_emb(embeds, position_ids=positions)
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
            position_embeddings=rotary,
            past_key_values=cache,
            use_cache=cache is not None,
        )
    return states, rotary


def turned(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of queries or keys, as transformers' LLaMA computes it; the three are broadcast."""
    found: Tensor = states * cos + rotate_half(states) * sin  # type: ignore[no-untyped-call]
    return found

"""The plain way to answer, one request after the other: what the engine is checked and measured against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from transformers import DynamicCache

from mllm_eval.catalog import Kept
from mllm_eval.generate.batching import Piece
from mllm_eval.generate.model import Answerer, embed_images, embed_pieces


@torch.inference_mode()
def answer_one(
    model: Answerer,
    pieces: Sequence[Piece],
    features: Mapping[str, Tensor],
    max_new_tokens: int,
    ends: frozenset[int],
    kept: Mapping[str, Kept] | None = None,
) -> list[int]:
    """The tokens of the greedy answer to a prompt, with its end token where it has one.

    `features` holds the grid [h, w, D] of each of the prompt's images by sha256, `kept` what is shown of them.
    """
    shown = {piece for piece in pieces if isinstance(piece, str)}
    images = embed_images(model, {name: features[name] for name in shown}, kept)
    inputs = embed_pieces(model, pieces, images)[None]
    cache = DynamicCache(config=model.llm.config)
    tokens: list[int] = []
    while len(tokens) < max_new_tokens:
        out = model.llm(inputs_embeds=inputs, past_key_values=cache, use_cache=True, logits_to_keep=1)
        tokens.append(int(out.logits[0, -1].argmax()))
        if tokens[-1] in ends:
            break
        inputs = embed_pieces(model, [(tokens[-1],)], {})[None]
    return tokens

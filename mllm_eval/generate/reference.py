"""The reference: plain greedy decoding, one request at a time, against which the engine is checked and timed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from transformers import DynamicCache

from mllm_eval.catalog import Kept
from mllm_eval.generate.batching import Lengths, Limits, Piece, Planned, TokenBatch
from mllm_eval.generate.embedding import EmbeddingBackend, alone
from mllm_eval.generate.model import Answerer, embed_images, embed_pieces


class Reference(EmbeddingBackend):
    """The reference loop as a backend."""

    def plan_lengths(self, lengths: Sequence[Lengths], limits: Limits) -> list[Planned]:
        """Return one batch per request."""
        return [*map(alone, lengths)]

    def complete_batch(self, batch: TokenBatch, features: Mapping[str, Tensor]) -> dict[int, list[int]]:
        """See `answer_one`."""
        prompts = ((row, (*batch.prefixes[row.prefix], *row.suffix)) for block in batch.blocks for row in block)
        return {
            row.request: answer_one(self.model, pieces, features, row.longest, self.ends, batch.kept)
            for row, pieces in prompts
            if features.keys() >= {piece for piece in pieces if isinstance(piece, str)}
        }


@torch.inference_mode()
def answer_one(
    model: Answerer,
    pieces: Sequence[Piece],
    features: Mapping[str, Tensor],
    max_new_tokens: int,
    ends: frozenset[int],
    kept: Mapping[str, Kept] | None = None,
) -> list[int]:
    """Return the tokens of the greedy answer to a prompt, including an end token if one was reached.

    Args:
        features: SHA-256 -> patch features [h, w, D] of each image of the prompt.
        ends: ids of the tokens that end an answer.
        kept: SHA-256 -> the shown part of each image whose padding is hidden.
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

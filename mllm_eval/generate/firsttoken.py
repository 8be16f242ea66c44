"""Logits of the first answer token to one question about many images, by one forward pass per image.

The text before the image is the same in all prompts, so its keys and values are computed once. The question after the
image is the same too, so the rows of a batch need no padding.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mllm_eval.catalog import Kept
from mllm_eval.generate.attention import SharedPrefixes, shared_prefix_attention, spans
from mllm_eval.generate.batching import Limits, Piece
from mllm_eval.generate.engine import prefill_prefixes, suffix_mask
from mllm_eval.generate.llamalayers import newest_states
from mllm_eval.generate.model import Answerer, embed_pieces, grid_of
from mllm_eval.model.internals import KeyValues, fault
from mllm_eval.prompts import PromptTokens, prompt_parts


class FirstToken:
    """Asks one question, tokenised once, about any number of images, and returns first-token logits."""

    def __init__(self, model: Answerer, template: str, question: str) -> None:
        """`template` is the conversation template that the model was trained with."""
        words = PromptTokens(model.tokenizer, template)
        chunks = words.encode(words.chunks(prompt_parts(template, question, 1)))
        (before, _), (after, _) = chunks
        self.model, self.before, self.after = model, tuple(before), tuple(after)
        self.plain = fault() is not None
        """Whether only transformers' public interface can be used, as its internals differ from the known ones."""
        self._prefixes: SharedPrefixes | None = None

    @property
    def tokens(self) -> int:
        """Number of tokens of a prompt that shows its whole image."""
        return len(self.before) + self.model.image_tokens + len(self.after)

    def embed(self, features: Tensor, kept: Sequence[Kept | None]) -> list[Tensor]:
        """Return embeddings [positions, H] of the shown part of each image, for patch features [B, h, w, D].

        kept: the shown part of each image's grid (`TokenGrid.kept`); None for the whole grid.
        """
        embedded = self.model.embed(features)
        grid = grid_of(self.model)
        if grid is None:
            return list(embedded)
        shown = (grid.shown(one or grid.kept(None)) for one in kept)
        return [row[torch.tensor(places, device=row.device)] for row, places in zip(embedded, shown, strict=True)]

    def prompt(self, image: Tensor) -> Tensor:
        """Return the whole prompt as embeddings [N, H], given an image's embeddings [positions, H]."""
        pieces: list[Piece] = [self.before, "image", self.after] if self.before else ["image", self.after]
        return embed_pieces(self.model, pieces, {"image": image})

    @torch.inference_mode()
    def logits(self, features: Tensor, kept: Sequence[Kept | None]) -> Tensor:
        """Return logits [B, vocabulary] of each answer's first token, for patch features [B, h, w, D] of B images.

        kept: the shown part of each image's grid (`TokenGrid.kept`); None for the whole grid.
        """
        images = self.embed(features, kept)
        by_length: dict[int, list[int]] = {}
        for place, image in enumerate(images):
            by_length.setdefault(len(image), []).append(place)
        logits: list[Tensor] = [features.new_empty(0)] * len(images)
        for places in by_length.values():
            alike = torch.stack([images[place] for place in places])
            for place, row in zip(places, self._plain(alike) if self.plain else self._quick(alike), strict=True):
                logits[place] = row
        return torch.stack(logits)

    def _quick(self, images: Tensor) -> Tensor:
        model = self.model
        if self._prefixes is None:
            before: list[tuple[Piece, ...]] = [(self.before,)] if self.before else []
            self._prefixes = prefill_prefixes(model, before, len(self.before), {}, Limits().pass_tokens)
        inputs = torch.cat([images, self._behind(len(images))], 1)
        rows, width, _ = inputs.shape
        positions = (len(self.before) + torch.arange(width, device=inputs.device)).expand(rows, width)
        mask = suffix_mask(torch.zeros(rows, dtype=torch.long, device=inputs.device), width, inputs.dtype)
        cache = KeyValues(model.llm.config.num_hidden_layers, width)
        shared = spans([0] * rows) if self.before else []
        with shared_prefix_attention(model.llm):
            states = newest_states(model.llm.model, inputs, positions, mask, cache, self._prefixes, shared)
        logits: Tensor = model.llm.lm_head(states)
        return logits

    def _plain(self, images: Tensor) -> Tensor:
        inputs = torch.stack([self.prompt(image) for image in images])
        logits: Tensor = self.model.llm(inputs_embeds=inputs, use_cache=False, logits_to_keep=1).logits[:, -1]
        return logits

    def _behind(self, rows: int) -> Tensor:
        return embed_pieces(self.model, [self.after], {}).expand(rows, -1, -1)

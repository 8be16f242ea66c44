"""Backends that are given prompts as embeddings: text tokenised, images encoded and projected on this side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from mllm_eval.answers import Answer
from mllm_eval.data.samples import ImageRef
from mllm_eval.generate.backend import Batch, ImageReader
from mllm_eval.generate.batching import Lengths, Limits, Planned, TokenBatch, plan
from mllm_eval.generate.positions import position_limit
from mllm_eval.generate.request import Request
from mllm_eval.generate.tokenized import TokenizedPrompts
from mllm_eval.prompts import PromptTokens, template_named

if TYPE_CHECKING:
    from torch import Tensor

    from mllm_eval.generate.model import Answerer

Features = Callable[[list[ImageRef]], "list[Tensor]"]
"""The grids [h, w, D] of images; UserError, OSError or ValueError fail the requests that show the image."""


class EmbeddingBackend:
    """What three of the four backends share; they differ in how a batch of tokens is completed."""

    def __init__(self, model: Answerer, template: str, features: Features, limits: Limits | None = None) -> None:
        """`template` is the one that the requests were written by."""
        from mllm_eval.generate.model import end_tokens, grid_of

        self.model, self.limits = model, limits or Limits()
        self.ends = end_tokens(model.tokenizer, template_named(template).assistant_close)
        self.prompts = TokenizedPrompts(PromptTokens(model.tokenizer, template), model.image_tokens, grid_of(model))
        self.images: ImageReader[Tensor] = ImageReader(features)

    @property
    def positions(self) -> int | None:
        """How many tokens the LLM can hold in a row, where its config says so."""
        return position_limit(getattr(self.model.llm, "config", None))

    def plan(self, requests: Sequence[Request], limits: Limits) -> list[Batch]:
        """See `Backend.plan`; a request that the positions have no room for is a batch of its own."""
        lengths = self.prompts.lengths(requests)
        positions = self.positions
        fitting = [one for one in lengths if _fits(one, positions)]
        planned = self.plan_lengths(fitting, limits) + [alone(one) for one in lengths if not _fits(one, positions)]
        return [Batch(tuple(requests[number] for number in one.requests), one.work) for one in planned]

    def plan_lengths(self, lengths: Sequence[Lengths], limits: Limits) -> list[Planned]:
        """The batches of prompts that fit."""
        return plan(lengths, limits)

    def prefetch(self, requests: Sequence[Request]) -> None:
        """See `Backend.prefetch`."""
        self.images.begin([image for request in requests for image in request.images])

    def count_tokens(self, request: Request) -> int:
        """The length of a prompt, text and visual tokens."""
        (prompt,) = self.prompts.prompts([request])
        return prompt.prefix_tokens + prompt.suffix_tokens

    def generate(self, requests: Sequence[Request]) -> list[Answer]:
        """See `Backend.generate`."""
        tokens = self.complete(requests)
        _, failed = self.images.read([image for request in requests for image in request.images])
        return [self._answer(*pair, failed) for pair in zip(requests, tokens, strict=True)]

    def complete(self, requests: Sequence[Request]) -> list[list[int] | None]:
        """The tokens of each answer, with its end token; None where there is no room or an image cannot be read."""
        features, _ = self.images.read([image for request in requests for image in request.images])
        lengths, positions = self.prompts.lengths(requests), self.positions
        tokens: dict[int, list[int]] = {}
        for planned in self.plan_lengths([one for one in lengths if _fits(one, positions)], self.limits):
            batch = self.prompts.batch(requests, planned, lengths)
            shown = {image.sha256 for number in planned.requests for image in requests[number].images}
            tokens |= self.complete_batch(batch, {name: features[name] for name in shown & features.keys()})
        return [tokens.get(place) for place in range(len(requests))]

    def complete_batch(self, batch: TokenBatch, features: Mapping[str, Tensor]) -> dict[int, list[int]]:
        """The tokens of each request of the batch that has all its images in `features`, by its number."""
        raise NotImplementedError

    def _answer(self, request: Request, tokens: list[int] | None, failed: Mapping[str, str]) -> Answer:
        (length,) = self.prompts.lengths([request])
        tokens_in, positions = length.prefix_tokens + length.suffix_tokens, self.positions
        if not _fits(length, positions):
            return request.too_long(tokens_in, positions)
        if tokens is None:
            reason = next(failed[image.sha256] for image in request.images if image.sha256 in failed)
            return request.failure(reason, tokens_in)
        # As the paper's code reads its model's tokens.
        text = self.model.tokenizer.decode(tokens, skip_special_tokens=True).strip()
        return request.answer(text, tokens_in, len(tokens))


def _fits(length: Lengths, positions: int | None) -> bool:
    """Whether there is room for a prompt and the longest answer allowed."""
    return positions is None or length.prefix_tokens + length.suffix_tokens + length.longest <= positions


def alone(length: Lengths) -> Planned:
    """A batch of one request."""
    tokens = length.prefix_tokens + length.suffix_tokens
    return Planned((length.prefix,), ((length.number,),), tokens)

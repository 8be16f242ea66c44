"""The base of backends that read prompts as embeddings, made here from tokenised text and projected features."""

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
"""Returns patch features [h, w, D] of images. UserError, OSError or ValueError fail the requests with that image."""


class EmbeddingBackend:
    """The common part of engine, reference and server; subclasses define `complete_batch`."""

    def __init__(self, model: Answerer, template: str, features: Features, limits: Limits | None = None) -> None:
        """`template` is the conversation template of the requests."""
        from mllm_eval.generate.model import end_tokens, grid_of

        self.model, self.limits = model, limits or Limits()
        self.ends = end_tokens(model.tokenizer, template_named(template).assistant_close)
        self.prompts = TokenizedPrompts(PromptTokens(model.tokenizer, template), model.image_tokens, grid_of(model))
        self.images: ImageReader[Tensor] = ImageReader(features)

    @property
    def positions(self) -> int | None:
        """The LLM's maximum sequence length in tokens; None where its config does not state it."""
        return position_limit(getattr(self.model.llm, "config", None))

    def plan(self, requests: Sequence[Request], limits: Limits) -> list[Batch]:
        """See `Backend.plan`; a request that is too long for the LLM is a batch of its own."""
        lengths = self.prompts.lengths(requests)
        positions = self.positions
        fitting = [one for one in lengths if _fits(one, positions)]
        planned = self.plan_lengths(fitting, limits) + [alone(one) for one in lengths if not _fits(one, positions)]
        return [Batch(tuple(requests[number] for number in one.requests), one.work) for one in planned]

    def plan_lengths(self, lengths: Sequence[Lengths], limits: Limits) -> list[Planned]:
        """Plan batches of requests that are not too long for the LLM."""
        return plan(lengths, limits)

    def prefetch(self, requests: Sequence[Request]) -> None:
        """See `Backend.prefetch`."""
        self.images.begin([image for request in requests for image in request.images])

    def count_tokens(self, request: Request) -> int:
        """Return the length of a prompt in tokens, text and image tokens together."""
        (prompt,) = self.prompts.prompts([request])
        return prompt.prefix_tokens + prompt.suffix_tokens

    def generate(self, requests: Sequence[Request]) -> list[Answer]:
        """See `Backend.generate`."""
        tokens = self.complete(requests)
        _, failed = self.images.read([image for request in requests for image in request.images])
        return [self._answer(*pair, failed) for pair in zip(requests, tokens, strict=True)]

    def complete(self, requests: Sequence[Request]) -> list[list[int] | None]:
        """Return the tokens of each answer with its end token; None if too long for the LLM or an image is broken."""
        features, _ = self.images.read([image for request in requests for image in request.images])
        lengths, positions = self.prompts.lengths(requests), self.positions
        tokens: dict[int, list[int]] = {}
        for planned in self.plan_lengths([one for one in lengths if _fits(one, positions)], self.limits):
            batch = self.prompts.batch(requests, planned, lengths)
            shown = {image.sha256 for number in planned.requests for image in requests[number].images}
            tokens |= self.complete_batch(batch, {name: features[name] for name in shown & features.keys()})
        return [tokens.get(place) for place in range(len(requests))]

    def complete_batch(self, batch: TokenBatch, features: Mapping[str, Tensor]) -> dict[int, list[int]]:
        """Return request number -> answer tokens, for each request of the batch whose images are all in `features`.

        `features` maps an image's SHA-256 to its patch features [h, w, D].
        """
        raise NotImplementedError

    def _answer(self, request: Request, tokens: list[int] | None, failed: Mapping[str, str]) -> Answer:
        (length,) = self.prompts.lengths([request])
        tokens_in, positions = length.prefix_tokens + length.suffix_tokens, self.positions
        if not _fits(length, positions):
            return request.too_long(tokens_in, positions)
        if tokens is None:
            reason = next(failed[image.sha256] for image in request.images if image.sha256 in failed)
            return request.failure(reason, tokens_in)
        # The paper's code decodes its model's tokens in this way.
        text = self.model.tokenizer.decode(tokens, skip_special_tokens=True).strip()
        return request.answer(text, tokens_in, len(tokens))


def _fits(length: Lengths, positions: int | None) -> bool:
    """Whether a prompt and its longest allowed answer fit the LLM."""
    return positions is None or length.prefix_tokens + length.suffix_tokens + length.longest <= positions


def alone(length: Lengths) -> Planned:
    """Return a batch of one request."""
    tokens = length.prefix_tokens + length.suffix_tokens
    return Planned((length.prefix,), ((length.number,),), tokens)

"""Requests to a backend: each question's prompt, rendered once, and the key that decides its answer. No torch."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from mllm_eval.answers import Answer
from mllm_eval.catalog.variant import DEFAULT, VariantKey
from mllm_eval.config import canonical
from mllm_eval.data.samples import ImageRef, Sample
from mllm_eval.errors import UserError
from mllm_eval.prompts import PromptPart, may_hold_marks, prompt_parts

# Errors that a broken image raises when it is read. Any other error is a bug and stops the run.
BROKEN = (UserError, OSError, ValueError)
# Begins the reason of a sample whose prompt and longest answer exceed the LLM's context. Such a sample is not retried.
TOO_LONG = "does not fit the LLM"
# Appended to a prompt before hashing if its question contains the text of control tokens.
AS_TEXT = "\0marks in the question are text"

AnswerKey = tuple[str, tuple[str, ...]]
"""What a greedy answer depends on: the first 16 hex digits of the prompt's and of each image's SHA-256."""


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Request:
    """One question, in the form that every backend receives.

    benchmark, variant, id: identify the question. text: the user's turn.
    prompt: the whole prompt up to the assistant's turn; empty where the model's own processor writes it.
    images: in the order in which they are shown. max_new_tokens: most tokens of the answer.
    digest: first 16 hex digits of the prompt's SHA-256 (`AnswerKey`).
    """

    benchmark: str
    variant: VariantKey
    id: str
    text: str
    prompt: tuple[PromptPart, ...]
    images: tuple[ImageRef, ...]
    max_new_tokens: int
    digest: str

    @property
    def key(self) -> AnswerKey:
        """The prompt's and the images' digests, as the journal stores them."""
        return self.digest, tuple(image.sha256[:16] for image in self.images)

    def answer(self, text: str, tokens_in: int, tokens_out: int) -> Answer:
        """Return the answer with this raw text."""
        return Answer(self.id, *self.key, text, tokens_in, tokens_out)

    def failure(self, reason: str, tokens_in: int = 0) -> Answer:
        """Return a failed answer with its reason."""
        return Answer(self.id, *self.key, "", tokens_in, 0, "error", reason)

    def too_long(self, tokens_in: int, positions: int | None) -> Answer:
        """Return the failed answer to a prompt of `tokens_in` tokens that is too long for the LLM."""
        room = f"{tokens_in} tokens and up to {self.max_new_tokens} of an answer, {positions} positions"
        return self.failure(f"{TOO_LONG}: {room}", tokens_in)


class PromptFormat(Protocol):
    """Writes prompts: by a conversation template of this project, or later by a model's own processor."""

    def write(self, sample: Sample) -> tuple[tuple[PromptPart, ...], str]:
        """Return the prompt (empty where the processor writes it later) and a digest of all that decides it."""
        ...


@dataclass(frozen=True)
class TemplateFormat:
    """Prompts by one of this project's conversation templates."""

    template: str
    _own: dict[PromptPart, PromptPart] = field(default_factory=dict, compare=False, repr=False)
    """The template's own parts, which all prompts share; one copy of each saves memory."""

    def write(self, sample: Sample) -> tuple[tuple[PromptPart, ...], str]:
        """Return the parts of the prompt and the digest of its text.

        If a question contains the text of control tokens, the digest also records that it was read as plain text. This
        tells such answers apart from those of older versions, which read it as control tokens.
        """
        parts = tuple(
            self._own.setdefault(part, part) if part.own else part
            for part in prompt_parts(self.template, sample.prompt, len(sample.images))
        )
        text = "".join(part.text for part in parts)
        return parts, _digest(text + (AS_TEXT if may_hold_marks(sample.prompt) else ""))


@dataclass(frozen=True)
class ChatFormat:
    """Prompts by an external model's own chat template, identified by their chat messages.

    overruled: fields of the model's generation_config that greedy decoding ignores (`mllm_eval.greedy`). They are part
    of the digest, since older versions followed them and so gave other answers.
    """

    overruled: Mapping[str, Any] = field(default_factory=dict)

    def write(self, sample: Sample) -> tuple[tuple[PromptPart, ...], str]:
        """Return no parts, and the digest of the chat messages."""
        told = messages(sample.prompt, len(sample.images))
        asked: Any = [told, dict(self.overruled)] if self.overruled else told
        return (), _digest(canonical([asked, AS_TEXT] if may_hold_marks(sample.prompt) else asked))


def messages(text: str, images: int) -> list[dict[str, Any]]:
    """Return a question as chat messages: one user turn with its images, then its text."""
    parts: list[dict[str, Any]] = [{"type": "image"} for _ in range(images)]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]


def write_request(sample: Sample, prompts: PromptFormat, max_new_tokens: int, variant: VariantKey = DEFAULT) -> Request:
    """Return the request for a sample, with its prompt rendered."""
    parts, digest = prompts.write(sample)
    return Request(sample.benchmark, variant, sample.id, sample.prompt, parts, sample.images, max_new_tokens, digest)


def fits(answer: Answer, room: int | None) -> bool:
    """Whether the prompt of an answer has at most `room` tokens; beyond its context an LLM's answers are noise."""
    return room is None or answer.tokens_in <= room


def is_settled(answer: Answer | None, request: Request, room: int | None) -> bool:
    """Whether `answer` is a valid answer to exactly this prompt and these images, so that none is needed.

    A failed answer counts as valid while an image cannot be decoded, or where the prompt is too long for the LLM. Needs
    no torch and no model.
    """
    if answer is None or (answer.prompt, answer.images) != request.key:
        return False
    if answer.state == "ok":
        return fits(answer, room)
    if answer.reason.startswith(TOO_LONG):
        return True
    return not all(map(_decodes, request.images))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _decodes(image: ImageRef) -> bool:
    try:
        image.load()
    except BROKEN:
        return False
    return True

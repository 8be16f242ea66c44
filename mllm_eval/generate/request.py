"""What a backend is asked: each question rendered once, with what its answer depends on. No torch."""

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
from mllm_eval.prompts import Part, may_hold_marks, prompt_parts

# What a broken image raises when it is read. Anything else is a fault of the code and stops the run.
BROKEN = (UserError, OSError, ValueError)
# Why a sample failed whose prompt and longest answer have no room in the LLM: trying again gives nothing else.
TOO_LONG = "does not fit the LLM"
# Behind a prompt whose own words hold control marks, where it is made a digest.
AS_TEXT = "\0marks in the question are text"

AnswerKey = tuple[str, tuple[str, ...]]
"""What a greedy answer depends on: the first 16 hex digits of a digest of the prompt, and of each image's SHA-256."""


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Request:
    """One question, as every backend is asked it.

    benchmark, variant, id: whose question it is. text: the user's words. prompt: the whole prompt up to the
        assistant's turn, written by a template; empty where the model's own processor writes it. images: in the order
        they are shown. max_new_tokens: how many tokens the answer may have. digest: of the prompt (`AnswerKey`).
    """

    benchmark: str
    variant: VariantKey
    id: str
    text: str
    prompt: tuple[Part, ...]
    images: tuple[ImageRef, ...]
    max_new_tokens: int
    digest: str

    @property
    def key(self) -> AnswerKey:
        """What the answer depends on, as the journal has it."""
        return self.digest, tuple(image.sha256[:16] for image in self.images)

    def answer(self, text: str, tokens_in: int, tokens_out: int) -> Answer:
        """The answer with this raw text."""
        return Answer(self.id, *self.key, text, tokens_in, tokens_out)

    def failure(self, reason: str, tokens_in: int = 0) -> Answer:
        """The failed answer, with why there is none."""
        return Answer(self.id, *self.key, "", tokens_in, 0, "error", reason)

    def too_long(self, tokens_in: int, positions: int | None) -> Answer:
        """The failed answer to a prompt of `tokens_in` tokens that the LLM's positions have no room for."""
        room = f"{tokens_in} tokens and up to {self.max_new_tokens} of an answer, {positions} positions"
        return self.failure(f"{TOO_LONG}: {room}", tokens_in)


class PromptFormat(Protocol):
    """Who writes the prompts: a template of this project, or an external model's own processor."""

    def write(self, sample: Sample) -> tuple[tuple[Part, ...], str]:
        """The prompt, empty where it is written later, and the digest of all that decides it."""
        ...


@dataclass(frozen=True)
class TemplateFormat:
    """Prompts by one of this project's conversation templates."""

    template: str
    _own: dict[Part, Part] = field(default_factory=dict, compare=False, repr=False)
    """What the template writes itself is the same in all prompts: held once."""

    def write(self, sample: Sample) -> tuple[tuple[Part, ...], str]:
        """The parts of the prompt, and the digest of its text.

        Where a question holds control marks, the digest also says that these were read as text: answers of a version
        that took them for control tokens are answers to another prompt.
        """
        parts = tuple(
            self._own.setdefault(part, part) if part.own else part
            for part in prompt_parts(self.template, sample.prompt, len(sample.images))
        )
        text = "".join(part.text for part in parts)
        return parts, _digest(text + (AS_TEXT if may_hold_marks(sample.prompt) else ""))


@dataclass(frozen=True)
class ChatFormat:
    """Prompts by a model's own chat template, which is known when the model is: the messages tell them apart.

    overruled: what greedy decoding does not follow of the model's generation_config (`mllm_eval.greedy`). Answers of a
    version that followed it are others, and so are those that took a question's own marks for control tokens.
    """

    overruled: Mapping[str, Any] = field(default_factory=dict)

    def write(self, sample: Sample) -> tuple[tuple[Part, ...], str]:
        """No parts, and the digest of the messages."""
        told = messages(sample.prompt, len(sample.images))
        asked: Any = [told, dict(self.overruled)] if self.overruled else told
        return (), _digest(canonical([asked, AS_TEXT] if may_hold_marks(sample.prompt) else asked))


def messages(text: str, images: int) -> list[dict[str, Any]]:
    """The one turn of a question, in the form that chat templates read: its images, then its text."""
    parts: list[dict[str, Any]] = [{"type": "image"} for _ in range(images)]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]


def write_request(sample: Sample, prompts: PromptFormat, max_new_tokens: int, variant: VariantKey = DEFAULT) -> Request:
    """The request that asks a sample; here its prompt is rendered, once."""
    parts, digest = prompts.write(sample)
    return Request(sample.benchmark, variant, sample.id, sample.prompt, parts, sample.images, max_new_tokens, digest)


def fits(answer: Answer, room: int | None) -> bool:
    """Whether the prompt of an answer was within `room` tokens; beyond the LLM's positions answers are noise."""
    return room is None or answer.tokens_in <= room


def is_settled(answer: Answer | None, request: Request, room: int | None) -> bool:
    """Whether a question needs no further answer: it has one to this very prompt about these very images.

    A failed one is tried again when its images can be decoded by now. Needs no torch and no model.
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

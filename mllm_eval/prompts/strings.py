"""Prompts and conversations as strings, for training and evaluation alike."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from mllm_eval.catalog.templates import TEMPLATES, Template
from mllm_eval.errors import UserError, near

IMAGE = "<image>"


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a rendered prompt or conversation.

    own: the template wrote it, so that its marks are control tokens; all else is text. image: an image stands here,
    and the text is its mark. target: it is learnt.
    """

    text: str
    own: bool
    target: bool = False
    image: bool = False


def template_named(name: str) -> Template:
    """The template of that name; UserError with the nearest name otherwise."""
    if name not in TEMPLATES:
        hint = f"{near(name, TEMPLATES)} Known: {', '.join(TEMPLATES)}"
        raise UserError(f"unknown conversation template '{name}'.{hint}")
    return TEMPLATES[name]


def user_turn(text: str, n_images: int) -> str:
    """The user's turn: one `<image>` line per image, then the text."""
    return f"{IMAGE}\n" * n_images + text


def render(template: str, user: str, n_images: int) -> str:
    """The whole prompt up to the assistant's turn, images first.

    `user` is the text without `<image>` lines. The string holds the begin mark that the template writes; one that
    belongs to the tokenizer is put in front where it is tokenised (`PromptTokens`).
    """
    return "".join(part.text for part in prompt_parts(template, user, n_images))


def prompt_parts(template: str, user: str, n_images: int) -> list[Part]:
    """What `render` gives, in parts: the first `n_images` marks are images."""
    chosen = template_named(template)
    turn = _with_images(user_turn(user, n_images), n_images)
    close = Part(chosen.user_close + chosen.assistant_open, True)
    return _written([*_opening(chosen, None), Part(chosen.user_open, True), *turn, close])


def conversation_parts(
    template: str,
    turns: list[tuple[str, str]],
    n_images: int,
    system: str | None = None,
    masked: Collection[int] = (),
) -> list[Part]:
    """A conversation of (user, assistant) pairs in parts; the first `n_images` marks of the users' texts are images.

    The parts before the first target are those of `prompt_parts` for the same user text. A target ends with the
    mark that ends the assistant's turn, so that the model learns to stop. masked: numbers of turns, from 0, whose
    answers are no targets.
    """
    chosen = template_named(template)
    parts, left = _opening(chosen, system), n_images
    for number, (user, assistant) in enumerate(turns):
        learnt = number not in masked
        own = min(left, user.count(IMAGE))
        left -= own
        if number:
            parts.append(Part(chosen.between, True))
        parts += [Part(chosen.user_open, True), *_with_images(user, own)]
        parts.append(Part(chosen.user_close + chosen.assistant_open, True))
        parts.append(Part(chosen.assistant_lead, True, target=learnt))
        parts.append(Part(assistant, False, target=learnt))
        parts.append(Part(chosen.assistant_close, True, target=learnt))
    return _written(parts)


def conversation(template: str, turns: list[tuple[str, str]], system: str | None = None) -> list[tuple[str, bool]]:
    """A conversation as (text, is_target) segments; `turns` are (user, assistant) pairs.

    The user's text holds its own `<image>` lines (see `user_turn`). Joined, the segments of a one-turn
    conversation start with exactly `render` of the same user text.
    """
    segments: list[tuple[str, bool]] = []
    for part in conversation_parts(template, turns, 0, system):
        if segments and segments[-1][1] == part.target:
            segments[-1] = (segments[-1][0] + part.text, part.target)
        else:
            segments.append((part.text, part.target))
    return segments


def _opening(template: Template, system: str | None) -> list[Part]:
    parts = [Part(template.begin, True)]
    text = template.system if system is None else system
    if text is not None:
        parts += [Part(template.system_open, True), Part(text, False), Part(template.system_close, True)]
    return parts


def _with_images(text: str, n_images: int) -> list[Part]:
    first, *others = text.split(IMAGE, n_images)
    parts = [Part(first, False)]
    for other in others:
        parts += [Part(IMAGE, True, image=True), Part(other, False)]
    return parts


def _written(parts: list[Part]) -> list[Part]:
    return [part for part in parts if part.text]

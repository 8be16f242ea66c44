"""Write prompts and conversations as strings or parts, for training and evaluation alike."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from mllm_eval.catalog.templates import TEMPLATES, Template
from mllm_eval.errors import UserError, near

IMAGE = "<image>"


@dataclass(frozen=True, slots=True)
class PromptPart:
    """A piece of a rendered prompt or conversation.

    own: the template wrote it, so control tokens in it count as such; other parts are plain text.
    target: it is a training target. image: it stands for an image, and its text is `<image>`.
    """

    text: str
    own: bool
    target: bool = False
    image: bool = False


def template_named(name: str) -> Template:
    """Return the template with this name. Raises UserError, with the nearest known name, for an unknown one."""
    if name not in TEMPLATES:
        hint = f"{near(name, TEMPLATES)} Known: {', '.join(TEMPLATES)}"
        raise UserError(f"unknown conversation template '{name}'.{hint}")
    return TEMPLATES[name]


def user_turn(text: str, n_images: int) -> str:
    """Return the user's turn: one `<image>` line per image, then the text."""
    return f"{IMAGE}\n" * n_images + text


def render(template: str, user: str, n_images: int) -> str:
    """Return the whole prompt up to the assistant's turn, images first.

    `user` is the text without `<image>` lines. The string contains a begin token only if the template itself writes
    it. A begin token that the tokenizer adds comes with tokenisation (`PromptTokens`).
    """
    return "".join(part.text for part in prompt_parts(template, user, n_images))


def prompt_parts(template: str, user: str, n_images: int) -> list[PromptPart]:
    """Return the parts of `render`'s prompt; the first `n_images` occurrences of `<image>` are images."""
    chosen = template_named(template)
    turn = _with_images(user_turn(user, n_images), n_images)
    close = PromptPart(chosen.user_close + chosen.assistant_open, True)
    return _written([*_opening(chosen, None), PromptPart(chosen.user_open, True), *turn, close])


def conversation_parts(
    template: str,
    turns: list[tuple[str, str]],
    n_images: int,
    system: str | None = None,
    masked: Collection[int] = (),
) -> list[PromptPart]:
    """Return the parts of a conversation of (user, assistant) pairs.

    The parts before the first target equal those of `prompt_parts` for the same user text. A target includes the token
    that ends the assistant's turn, so that the model learns to stop.

    Args:
        turns: (user, assistant) pairs.
        n_images: the first `n_images` occurrences of `<image>` in the users' texts are images.
        system: the system message; by default the template's.
        masked: indices of turns whose answers are no targets.
    """
    chosen = template_named(template)
    parts, left = _opening(chosen, system), n_images
    for number, (user, assistant) in enumerate(turns):
        learnt = number not in masked
        own = min(left, user.count(IMAGE))
        left -= own
        if number:
            parts.append(PromptPart(chosen.between, True))
        parts += [PromptPart(chosen.user_open, True), *_with_images(user, own)]
        parts.append(PromptPart(chosen.user_close + chosen.assistant_open, True))
        parts.append(PromptPart(chosen.assistant_lead, True, target=learnt))
        parts.append(PromptPart(assistant, False, target=learnt))
        parts.append(PromptPart(chosen.assistant_close, True, target=learnt))
    return _written(parts)


def conversation(template: str, turns: list[tuple[str, str]], system: str | None = None) -> list[tuple[str, bool]]:
    """Return a conversation of (user, assistant) pairs as (text, is_target) segments.

    The user's text contains its own `<image>` lines (see `user_turn`). The joined segments of a one-turn conversation
    begin with exactly `render` of the same user text.
    """
    segments: list[tuple[str, bool]] = []
    for part in conversation_parts(template, turns, 0, system):
        if segments and segments[-1][1] == part.target:
            segments[-1] = (segments[-1][0] + part.text, part.target)
        else:
            segments.append((part.text, part.target))
    return segments


def _opening(template: Template, system: str | None) -> list[PromptPart]:
    parts = [PromptPart(template.begin, True)]
    text = template.system if system is None else system
    if text is not None:
        parts += [
            PromptPart(template.system_open, True),
            PromptPart(text, False),
            PromptPart(template.system_close, True),
        ]
    return parts


def _with_images(text: str, n_images: int) -> list[PromptPart]:
    first, *others = text.split(IMAGE, n_images)
    parts = [PromptPart(first, False)]
    for other in others:
        parts += [PromptPart(IMAGE, True, image=True), PromptPart(other, False)]
    return parts


def _written(parts: list[PromptPart]) -> list[PromptPart]:
    return [part for part in parts if part.text]

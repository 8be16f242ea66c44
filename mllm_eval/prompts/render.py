"""Prompts and conversations as strings, for training and evaluation alike."""

from __future__ import annotations

from mllm_eval.errors import UserError, near
from mllm_eval.prompts.templates import TEMPLATES, Template

IMAGE = "<image>"


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

    `user` is the text without `<image>` lines. The string holds the template's begin mark, so a tokenizer
    must not add its own.
    """
    chosen = template_named(template)
    return _head(chosen, None) + _question(chosen, user_turn(user, n_images))


def conversation(template: str, turns: list[tuple[str, str]], system: str | None = None) -> list[tuple[str, bool]]:
    """A conversation as (text, is_target) segments; `turns` are (user, assistant) pairs.

    The user's text holds its own `<image>` lines (see `user_turn`). Joined, the segments of a one-turn
    conversation start with exactly `render` of the same user text. A target segment ends with the mark
    that ends the assistant's turn, so that the model learns to stop.
    """
    chosen = template_named(template)
    segments: list[tuple[str, bool]] = []
    head = _head(chosen, system)
    for user, assistant in turns:
        segments.append((head + _question(chosen, user), False))
        segments.append((chosen.assistant_lead + assistant + chosen.assistant_close, True))
        head = ""
    return segments


def _head(template: Template, system: str | None) -> str:
    text = template.system if system is None else system
    return template.begin + ("" if text is None else template.system_open + text + template.system_close)


def _question(template: Template, user: str) -> str:
    return template.user_open + user + template.user_close + template.assistant_open

"""Split a prompt or conversation given as one string, as `transformers` processors receive it, into its parts."""

from __future__ import annotations

import re

from mllm_eval.catalog.templates import Template
from mllm_eval.prompts.strings import IMAGE, PromptPart, template_named


def parts_of(template: str, text: str, n_images: int | None = None) -> list[PromptPart]:
    """Return the parts of a prompt or conversation that a template wrote as a string; inverse of `prompt_parts`.

    The first `n_images` occurrences of `<image>` in the users' texts are images; by default all are. The text of a turn
    counts as plain text, even if it contains control tokens. Only a complete change of turns inside a text is
    ambiguous; it is read as a change of turns. In a string that does not follow the template, all control tokens count
    as such.
    """
    turns = _turns(template_named(template), text)
    if turns is None:
        turns = [(text, True, True)]
    parts: list[PromptPart] = []
    left = text.count(IMAGE) if n_images is None else n_images
    for piece, own, shows in turns:
        if not shows:
            parts.append(PromptPart(piece, own))
            continue
        first, *others = piece.split(IMAGE, left)
        left -= len(others)
        parts.append(PromptPart(first, own))
        for other in others:
            parts += [PromptPart(IMAGE, True, image=True), PromptPart(other, own)]
    return [part for part in parts if part.text]


def placed_parts(text: str, texts: dict[str, str]) -> list[PromptPart]:
    """Return the parts of a string in which the keys of `texts` are placeholders for their values.

    The values are plain text. In the rest of the string, control tokens count as such, and every `<image>` is an image.
    """
    names = re.compile("|".join(map(re.escape, [IMAGE, *texts])))
    parts, at = [], 0
    for match in names.finditer(text):
        parts.append(PromptPart(text[at : match.start()], True))
        name, at = match.group(), match.end()
        parts.append(PromptPart(IMAGE, True, image=True) if name == IMAGE else PromptPart(texts[name], False))
    parts.append(PromptPart(text[at:], True))
    return [part for part in parts if part.text]


def _turns(chosen: Template, text: str) -> list[tuple[str, bool, bool]] | None:
    """Return (text, whether the template wrote it, whether its `<image>`s may be images) for each piece of a string.

    Returns None for a string that does not follow the template.
    """
    close = chosen.user_close + chosen.assistant_open
    turn = chosen.assistant_close + chosen.between + chosen.user_open
    begin = chosen.begin if text.startswith(chosen.begin) else ""
    turns, at = [(begin, True, False)], len(begin)
    if not text.startswith(chosen.user_open, at):
        end = text.find(chosen.system_close + chosen.user_open, at)
        if not text.startswith(chosen.system_open, at) or end < 0:
            return None
        system = text[at + len(chosen.system_open) : end]
        turns += [(chosen.system_open, True, False), (system, False, False), (chosen.system_close, True, False)]
        at = end + len(chosen.system_close)
    turns.append((chosen.user_open, True, False))
    at += len(chosen.user_open)
    while (closed := text.find(close, at)) >= 0:
        again = text.find(turn, closed + len(close))
        if again < 0:
            break
        answer = text[closed + len(close) : again]
        turns += [(text[at:closed], False, True), (close, True, False), (answer, False, False), (turn, True, False)]
        at = again + len(turn)
    if text.endswith(close) and len(text) - len(close) >= at:
        return [*turns, (text[at : -len(close)], False, True), (close, True, False)]
    if closed < 0:
        return None
    answer = text[closed + len(close) :].removesuffix(chosen.assistant_close)
    ended = text[closed + len(close) + len(answer) :]
    return [*turns, (text[at:closed], False, True), (close, True, False), (answer, False, False), (ended, True, False)]

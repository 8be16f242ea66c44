"""Control marks that a question holds in its own words: `</s>`, `<|eot_id|>`, `[INST]`."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from mllm_eval.prompts.strings import IMAGE

# What tokenizers call their control tokens. Narrower than all that stands in square brackets: `x[n]` and `[0,1]` are
# mathematics.
_MARK = re.compile(r"<[^\s<>]+>|\[/?g?[A-Z][A-Z_]+\d*\]|\[unused\d+\]")


def may_hold_marks(text: str) -> bool:
    """Whether a text holds what may be the control mark of some tokenizer, other than `<image>`."""
    return any(match.group() != IMAGE for match in _MARK.finditer(text))


def marks_of(processor: Any) -> tuple[str, ...]:
    """The control marks of a `transformers` processor, the longest first.

    These are its tokenizer's special tokens, added tokens in brackets that its chat template writes, and the marks of
    images and other media. A mark of one character is none: nothing could be put into it.
    """
    tokenizer = processor.tokenizer
    template = str(getattr(processor, "chat_template", None) or "")
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    marks = {one.content for one in added if one.special or (_MARK.fullmatch(one.content) and one.content in template)}
    marks |= set(map(str, getattr(tokenizer, "all_special_tokens", ())))
    marks |= {
        value for name, value in vars(processor).items() if name.endswith("_token") and isinstance(value, str) and value
    }
    return tuple(sorted((one for one in marks if len(one.strip()) > 1), key=lambda one: (-len(one), one)))


def unmarked(text: str, marks: Collection[str]) -> str:
    """The text with a space in each mark, before its last character, so that no tokenizer takes it for the mark."""
    if not marks:
        return text
    pattern = re.compile("|".join(map(re.escape, marks)))
    while (spaced := pattern.sub(lambda mark: f"{mark.group()[:-1]} {mark.group()[-1]}", text)) != text:
        text = spaced
    return text

"""Find the text of control tokens, such as `</s>`, `<|eot_id|>` or `[INST]`, inside a question."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from mllm_eval.prompts.strings import IMAGE

# The form of tokenizers' control tokens. Not all text in square brackets, since `x[n]` and `[0,1]` are mathematics.
_MARK = re.compile(r"<[^\s<>]+>|\[/?g?[A-Z][A-Z_]+\d*\]|\[unused\d+\]")


def may_hold_marks(text: str) -> bool:
    """Whether a text contains what may be a control token of some tokenizer, other than `<image>`."""
    return any(match.group() != IMAGE for match in _MARK.finditer(text))


def marks_of(processor: Any) -> tuple[str, ...]:
    """Return the control tokens of a `transformers` processor as text, the longest first.

    These are its tokenizer's special tokens, added tokens in brackets that occur in its chat template, and the tokens
    of images and other media. Tokens of a single character are left out, because `unmarked` could not break them.
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
    """Return the text with a space before each mark's last character, so that no tokenizer reads it as a token."""
    if not marks:
        return text
    pattern = re.compile("|".join(map(re.escape, marks)))
    while (spaced := pattern.sub(lambda mark: f"{mark.group()[:-1]} {mark.group()[-1]}", text)) != text:
        text = spaced
    return text

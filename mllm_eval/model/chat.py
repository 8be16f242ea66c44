"""Compare the chat template of an LLM's tokenizer with the conversation templates of this project."""

from __future__ import annotations

from typing import Any

from mllm_eval.adapters.loading import first_line
from mllm_eval.model.processor import chat_template
from mllm_eval.prompts import TEMPLATES

MESSAGES = [
    {"role": "user", "content": "What is it?"},
    {"role": "assistant", "content": "A cat"},
    {"role": "user", "content": "Sure?"},
]
SHOWN = 40


def other_words(tokenizer: Any, template: str) -> str | None:
    """Return a sentence on how the tokenizer's own chat template differs from `template`.

    Returns None if they agree, or if the tokenizer has no chat template. Both write the same conversation of question,
    answer and question. A begin token at the start is ignored, as this project's template decides about it.
    """
    if not getattr(tokenizer, "chat_template", None):
        return None
    try:
        theirs: str = tokenizer.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True)
    except Exception as problem:
        return f"its own chat template cannot be used ({first_line(problem)})"
    ours: str = tokenizer.apply_chat_template(MESSAGES, tokenize=False, chat_template=chat_template(template))
    begin = tokenizer.bos_token or ""
    # In SmolLM2 the begin token also opens each turn, so it must not be stripped from the first one.
    plain = ours if ours.startswith(begin) and not TEMPLATES[template].begin else ours.removeprefix(begin)
    if theirs.removeprefix(begin) == ours.removeprefix(begin):
        return None
    if theirs.endswith(plain):
        return (
            f"its own chat template begins with {_short(theirs.removesuffix(plain))}, the template {template} does not"
        )
    at = next((at for at, pair in enumerate(zip(theirs, ours, strict=False)) if pair[0] != pair[1]),
              min(len(theirs), len(ours)))  # fmt: skip
    return (
        f"its own chat template writes {_short(theirs[at:])} where the template {template} writes {_short(ours[at:])} "
        f"(behind {ours[max(0, at - 20) : at]!r})"
    )


def nearest_template(tokenizer: Any) -> str | None:
    """Return a sentence on which template matches the tokenizer's own chat template; None without a chat template."""
    if not getattr(tokenizer, "chat_template", None):
        return None
    words = {name: other_words(tokenizer, name) for name in TEMPLATES}
    if same := [name for name, said in words.items() if said is None]:
        return f"its own chat template is {same[0]}"
    near = [said for said in words.values() if said and "begins with" in said]
    return near[0] if near else f"its own chat template is none of {', '.join(TEMPLATES)}"


def _short(text: str) -> str:
    return repr(text if len(text) <= SHOWN else f"{text[:SHOWN]}...")

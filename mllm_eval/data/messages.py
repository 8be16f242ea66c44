"""Reads the turns of a training row: `from` and `value` (LLaVA, Cambrian), or `role` and `content` (chat formats)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from mllm_eval.data.rowfields import READ_OF_MESSAGE, check_fields, file_name, is_nothing, is_text
from mllm_eval.errors import near
from mllm_eval.prompts import IMAGE

ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
# Fields of other tools that exclude a turn from the loss: OpenAI and Mistral, ms-swift, Axolotl.
LEARNT = ("weight", "loss", "train")


Message = tuple[str, str, bool]
"""One turn: speaker (user, assistant, system), text, and whether an answer counts in the loss."""


def messages_of(row: Mapping[str, Any], parts: list[str | None]) -> tuple[str | None, list[Message]]:
    """Return a row's system prompt, and the turns after it.

    parts: is extended by one entry for each message part that is an image: its file, or None for the row's next image.

    Raises ValueError that says what is wrong with the row.
    """
    read = [_message(message, parts) for message in _raw(row)]
    system, given = row.get("system"), None
    if read[0][0] == "system":
        given = read[0][1]
        del read[0]
        if IMAGE in given:
            raise ValueError(f"the system prompt contains {IMAGE}")
    if is_nothing(system) or system == given:
        return given, read
    if not isinstance(system, str) or IMAGE in system or not is_text(system):
        raise ValueError("`system` is not a text")
    if given is not None:
        raise ValueError("has two system prompts, in `system` and in the first message; keep one of them")
    return system, read


def _raw(row: Mapping[str, Any]) -> list[Any]:
    turns, other = row.get("conversations"), row.get("messages")
    if not is_nothing(other):
        if not is_nothing(turns):
            raise ValueError("has both `conversations` and `messages`; keep one of them")
        turns = other
    if not isinstance(turns, list) or not turns:
        raise ValueError(f"`conversations` is missing or empty.{near('conversations', row)}".removesuffix("."))
    return turns


def check_messages(row: Mapping[str, Any], pictured: bool, ignored: Collection[str]) -> None:
    """Raise ValueError for an unknown field in any message of a row, as `check_fields` does."""
    for message in _raw(row):
        # A message with only two fields has a speaker and a text; `messages_of` has refused any other.
        if len(message) > 2:
            check_fields(message, READ_OF_MESSAGE, pictured, ignored, "a message: ")


def _message(message: Any, parts: list[str | None]) -> Message:
    if not isinstance(message, dict):
        raise ValueError("a message has no text in `value`")
    if len(message) == 2:
        # Nearly all messages take this fast path. Training sets have tens of millions.
        speaker, text = message.get("from"), message.get("value")
        if type(speaker) is str and speaker in ROLES and type(text) is str and text.isascii():
            return ROLES[speaker], text, True
    text = _one_of(message, "value", "content")
    if isinstance(text, list):
        text = "".join(_part(part, parts) for part in text)
    if not isinstance(text, str):
        raise ValueError("a message has no text in `value`")
    if not is_text(text):
        raise ValueError("a message holds half of a surrogate pair, which is no character")
    speaker = _one_of(message, "from", "role")
    role = ROLES.get(speaker, "") if isinstance(speaker, str) else ""
    if not role:
        raise ValueError(f"a message is from {speaker!r}, not human, gpt or system")
    return role, text, _learnt(message, role)


def _one_of(message: Mapping[str, Any], key: str, other: str) -> Any:
    value = message.get(key)
    if value is None:
        return message.get(other)
    if message.get(other) not in (None, value):
        raise ValueError(f"a message has both `{key}` and `{other}`; keep one of them")
    return value


def _learnt(message: Mapping[str, Any], role: str) -> bool:
    learnt = True
    for key in LEARNT:
        value = message.get(key)
        if value is None:
            continue
        if value not in (0, 1):
            raise ValueError(f"a message: `{key}` is {value!r}; 0 (not learnt) and 1 are read")
        if value and role != "assistant":
            raise ValueError(f"a message: `{key}` is {value!r}, but only answers are learnt")
        learnt = learnt and bool(value)
    return learnt


def _part(part: Any, parts: list[str | None]) -> str:
    """Text of a message part. An image becomes its mark."""
    if not isinstance(part, dict):
        raise ValueError("a part of a message is not an object with a `type`")
    given = {key: value for key, value in part.items() if value is not None}
    kind = given.pop("type", None)
    text = given.pop("text", None)
    if kind == "text" and isinstance(text, str) and not given:
        return text
    if kind != "image" or text:
        raise ValueError(f"a part of a message is of type {kind!r}; texts and images are read")
    index, name = given.pop("index", None), given.pop("image", None) or given.pop("path", None)
    if given or not isinstance(name, str | None):
        raise ValueError("a part that is an image has more than the name of its file in `image` or `path`")
    # All images come at the beginning of the prompt, in the order of the row's list.
    if index not in (None, len(parts)):
        raise ValueError(f"a part shows image {index!r} where image {len(parts)} comes next")
    parts.append(None if name is None else file_name(name, "image"))
    return IMAGE

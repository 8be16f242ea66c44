"""Rows of a data set -> what is asked. A benchmark of peculiar rows brings a `records.py` of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mllm_eval.errors import UserError

Record = Mapping[str, Any]
Settings = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Reading:
    """What a reader makes of a row.

    id: None lets the row's number be the id; an id's second occurrence becomes `id#2`.
    group: what is scored together; None lets the sample stand alone.
    asked: whether the benchmark asks this row at all.
    images: (column, position in its list) of each image of the prompt, in order.
    """

    id: str | None
    images: tuple[tuple[str, int], ...]
    prompt: str
    target: str
    group: str | None = None
    asked: bool = True


def present(record: Record, column: str) -> bool:
    """Whether the row has this image; a record that doesn't speak of it has."""
    value = record.get(column, True)
    return value is not None and value != []


def lettered(options: Sequence[str]) -> str:
    """A line for each option: "\\nA. first\\nB. second"."""
    return "".join(f"\n{chr(ord('A') + i)}. {option}" for i, option in enumerate(options))


def with_suffix(text: str, suffix: str | None) -> str:
    """The text and, on a line of its own, the instruction that ends it."""
    return f"{text}\n{suffix}" if suffix else text


def question(record: Record, settings: Settings) -> Reading:
    """A question as it stands. Settings: question, answer, id, group, image (columns), suffix."""
    return Reading(
        id=identity(record, settings),
        images=pictures(record, settings),
        prompt=with_suffix(str(record[settings.get("question", "question")]), settings.get("suffix")),
        target=gold(record, settings),
        group=_text(record.get(settings.get("group", ""))),
    )


def choices(record: Record, settings: Settings) -> Reading:
    """A question and a list of options. Settings as for `question`, and options (column), heading."""
    text = str(record[settings.get("question", "question")]) + settings.get("heading", "")
    text += lettered(record[settings.get("options", "options")])
    return Reading(
        id=identity(record, settings),
        images=pictures(record, settings),
        prompt=with_suffix(text, settings.get("suffix")),
        target=gold(record, settings),
    )


def identity(record: Record, settings: Settings) -> str | None:
    """The id that the row carries, if the settings name a column and the record has it."""
    column = settings.get("id")
    return None if column is None or record.get(column) is None else str(record[column])


def pictures(record: Record, settings: Settings) -> tuple[tuple[str, int], ...]:
    """The row's one image, or none."""
    column = settings.get("image", "image")
    return ((column, 0),) if present(record, column) else ()


def gold(record: Record, settings: Settings) -> str:
    """The gold answer to show; empty where the data set hides it. UserError for one that was left empty."""
    column = settings.get("answer", "answer")
    value = record.get(column)
    if isinstance(value, str) and not value.strip():
        raise UserError(f"column '{column}' is empty: every answer would be wrong; write the gold, or drop the row")
    return shown(value)


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def shown(answer: object) -> str:
    """A gold answer as a line of text."""
    if isinstance(answer, list | tuple):
        return " | ".join(str(part) for part in answer)
    return "" if answer is None else str(answer)

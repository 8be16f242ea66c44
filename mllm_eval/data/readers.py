"""Rows of a data set -> what is asked: `question`, `choices`, `choice_columns`, `yes_no`.

A benchmark of peculiar rows brings a `records.py` of its own, and may declare its settings with `takes`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import Field

from mllm_eval.data.settings import Asked, takes
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


class QuestionSettings(Asked):
    """question, answer: columns of the question and its gold answer. group: of what is scored together."""

    columns: ClassVar[tuple[str, ...]] = (*Asked.columns, "question", "answer", "group")
    needed: ClassVar[tuple[str, ...]] = (*Asked.needed, "question")

    question: str = "question"
    answer: str = "answer"
    group: str | None = None


class ChoicesSettings(QuestionSettings):
    """options: column of the list of options. heading: text between the question and its options."""

    columns: ClassVar[tuple[str, ...]] = (*QuestionSettings.columns, "options")
    needed: ClassVar[tuple[str, ...]] = (*QuestionSettings.needed, "options")

    options: str = "options"
    heading: str = ""


class ChoiceColumnsSettings(QuestionSettings):
    """options: the columns of the options, whose letters are A, B, ... heading: as of `ChoicesSettings`."""

    columns: ClassVar[tuple[str, ...]] = (*QuestionSettings.columns, "options")
    needed: ClassVar[tuple[str, ...]] = (*QuestionSettings.needed, "options")

    options: list[str] = Field(default_factory=lambda: list("ABCD"), min_length=2, max_length=26)
    heading: str = ""


class YesNoSettings(QuestionSettings):
    """group: the column that the questions on one image share."""

    group: str


@takes(QuestionSettings)
def question(record: Record, settings: Settings) -> Reading:
    """A question as it stands."""
    return _asked(record, settings, str(record[settings.get("question", "question")]), gold(record, settings))


@takes(ChoicesSettings)
def choices(record: Record, settings: Settings) -> Reading:
    """A question and a list of options, which get letters."""
    column = settings.get("options", "options")
    options = record[column]
    if not isinstance(options, list | tuple) or not options or not all(isinstance(one, str) for one in options):
        raise UserError(f"column '{column}' is {options!r:.60}, expected a list of texts; declare it as list<string> "
                        'under `columns`, and write it in a csv as JSON: ["one", "two"]')  # fmt: skip
    return _asked(record, settings, _headed(record, settings) + lettered(options), gold(record, settings))


@takes(ChoiceColumnsSettings)
def choice_columns(record: Record, settings: Settings) -> Reading:
    """A question whose options stand in columns of their own, A to D by default.

    An option that a row lacks (null, empty, the text "nan") is left out, and the others keep their letters.
    """
    letters = {chr(ord("A") + at): record[column] for at, column in enumerate(settings.get("options", "ABCD"))}
    options = {letter: str(text) for letter, text in letters.items() if str(text or "").strip() not in ("", "nan")}
    if len(options) < 2:
        raise UserError(f"{len(options)} options in columns {', '.join(settings.get('options', 'ABCD'))}, expected two")
    lines = "".join(f"\n{letter}. {text}" for letter, text in options.items())
    return _asked(record, settings, _headed(record, settings) + lines, gold(record, settings))


@takes(YesNoSettings)
def yes_no(record: Record, settings: Settings) -> Reading:
    """A question whose answer is yes or no; those of one group are scored together, as MME's two on an image."""
    said = gold(record, settings).strip().lower()
    if said not in ("yes", "no"):
        raise UserError(f"column '{settings.get('answer', 'answer')}' is {said!r}, expected yes or no")
    return _asked(record, settings, str(record[settings.get("question", "question")]), said)


def _asked(record: Record, settings: Settings, text: str, target: str) -> Reading:
    return Reading(
        id=identity(record, settings),
        images=pictures(record, settings),
        prompt=with_suffix(text, settings.get("suffix")),
        target=target,
        group=_text(record.get(settings.get("group") or "")),
    )


def _headed(record: Record, settings: Settings) -> str:
    return f"{record[settings.get('question', 'question')]}{settings.get('heading', '')}"


def identity(record: Record, settings: Settings) -> str | None:
    """The id that the row carries, if the settings name a column and the record has it."""
    column = settings.get("id")
    return None if column is None or record.get(column) is None else str(record[column])


def pictures(record: Record, settings: Settings) -> tuple[tuple[str, int], ...]:
    """The row's one image, or none."""
    column = settings.get("image", "image")
    return ((column, 0),) if column is not None and present(record, column) else ()


def gold(record: Record, settings: Settings) -> str:
    """The gold answer to show; empty where the data set hides it. UserError for one that was left empty."""
    column = str(settings.get("answer", "answer"))
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

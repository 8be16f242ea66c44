"""Readers, which turn rows of a data set into questions: `question`, `choices`, `choice_columns`, `yes_no`.

A benchmark whose rows fit none of them has its own `records.py`, which may declare its settings with `takes`.
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
    """A reader's result for one row.

    id: None uses the row's number as id. The second occurrence of an id becomes `id#2`.
    group: name of the samples that are scored together; None for a sample on its own.
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
    """Whether the row has this image. A record without the column counts as having it."""
    value = record.get(column, True)
    return value is not None and value != []


def lettered(options: Sequence[str]) -> str:
    """One line for each option: "\\nA. first\\nB. second"."""
    return "".join(f"\n{chr(ord('A') + i)}. {option}" for i, option in enumerate(options))


def with_suffix(text: str, suffix: str | None) -> str:
    """The text, followed on its own line by the instruction that ends the prompt, if there is one."""
    return f"{text}\n{suffix}" if suffix else text


class QuestionSettings(Asked):
    """question, answer: columns of the question and its gold answer. group: column of the group scored together."""

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
    """options: the columns of the options, lettered A, B, ... heading: text between the question and its options."""

    columns: ClassVar[tuple[str, ...]] = (*QuestionSettings.columns, "options")
    needed: ClassVar[tuple[str, ...]] = (*QuestionSettings.needed, "options")

    options: list[str] = Field(default_factory=lambda: list("ABCD"), min_length=2, max_length=26)
    heading: str = ""


class YesNoSettings(QuestionSettings):
    """group: the column whose value the questions about one image share."""

    group: str


@takes(QuestionSettings)
def question(record: Record, settings: Settings) -> Reading:
    """Ask the question unchanged."""
    return _asked(record, settings, str(record[settings.get("question", "question")]), gold(record, settings))


@takes(ChoicesSettings)
def choices(record: Record, settings: Settings) -> Reading:
    """Ask a question with a list of options, which get letters. Raises UserError if the options are not a list."""
    column = settings.get("options", "options")
    options = record[column]
    if not isinstance(options, list | tuple) or not options or not all(isinstance(one, str) for one in options):
        raise UserError(f"column '{column}' is {options!r:.60}, expected a list of texts; declare it as list<string> "
                        'under `columns`, and write it in a csv as JSON: ["one", "two"]')  # fmt: skip
    return _asked(record, settings, _headed(record, settings) + lettered(options), gold(record, settings))


@takes(ChoiceColumnsSettings)
def choice_columns(record: Record, settings: Settings) -> Reading:
    """Ask a question whose options are in separate columns, A to D by default.

    An option that is absent (null, empty, the text "nan") is left out, and the others keep their letters.
    Raises UserError for fewer than two options.
    """
    letters = {chr(ord("A") + at): record[column] for at, column in enumerate(settings.get("options", "ABCD"))}
    options = {letter: str(text) for letter, text in letters.items() if str(text or "").strip() not in ("", "nan")}
    if len(options) < 2:
        raise UserError(f"{len(options)} options in columns {', '.join(settings.get('options', 'ABCD'))}, expected two")
    lines = "".join(f"\n{letter}. {text}" for letter, text in options.items())
    return _asked(record, settings, _headed(record, settings) + lines, gold(record, settings))


@takes(YesNoSettings)
def yes_no(record: Record, settings: Settings) -> Reading:
    """Ask a yes/no question; a group is scored together, as in MME. Raises UserError for another gold answer."""
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
    """The row's id, or None if the settings name no column or the record does not have it."""
    column = settings.get("id")
    return None if column is None or record.get(column) is None else str(record[column])


def pictures(record: Record, settings: Settings) -> tuple[tuple[str, int], ...]:
    """The place of the row's image, or an empty tuple."""
    column = settings.get("image", "image")
    return ((column, 0),) if column is not None and present(record, column) else ()


def gold(record: Record, settings: Settings) -> str:
    """The gold answer as text, for display; empty if the data set hides it. Raises UserError for a blank answer."""
    column = str(settings.get("answer", "answer"))
    value = record.get(column)
    if isinstance(value, str) and not value.strip():
        raise UserError(f"column '{column}' is empty: every answer would be wrong; write the gold, or drop the row")
    return shown(value)


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def shown(answer: object) -> str:
    """A gold answer as one line of text."""
    if isinstance(answer, list | tuple):
        return " | ".join(str(part) for part in answer)
    return "" if answer is None else str(answer)

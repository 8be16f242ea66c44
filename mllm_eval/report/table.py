"""A table before it is rendered: rows, columns, and cells with all texts that are printed in them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import ROUND_DOWN, ROUND_HALF_EVEN, ROUND_HALF_UP, Decimal
from itertools import groupby
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from mllm_eval.html import Html

Rounding = Literal["round", "truncate", "even"]
_MODES = {"round": ROUND_HALF_UP, "truncate": ROUND_DOWN, "even": ROUND_HALF_EVEN}
MISSING = "–"  # noqa: RUF001  the dash of an empty cell


@dataclass(frozen=True, slots=True)
class Column:
    """A column of numbers, or of text (`text=True`). `group` is a heading shared by neighbouring columns."""

    key: str
    title: str
    text: bool = False
    decimals: int = 1
    better: Literal["high", "low"] = "high"
    group: str = ""


@dataclass(frozen=True, slots=True)
class Cell:
    """The contents of a cell: the number's text, followed by failed samples, delta, marks and interval if present.

    `failed` is the text on failed samples, if too many failed for the value to count. `counted` names how the value is
    counted if that differs from the column; no delta is taken between values that are counted differently.
    """

    text: str = MISSING
    value: float | None = None
    delta: str = ""
    marks: str = ""
    low: float | None = None
    high: float | None = None
    interval: str = ""
    best: bool = False
    counted: str = ""
    failed: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """A measured run or a published row. `notes` become footnotes.

    `aside` rows, such as blind rows and visual gains, are never marked as best.
    """

    label: str
    source: Literal["measured", "published"]
    cells: Mapping[str, Cell]
    group: str = ""
    aside: bool = False
    notes: tuple[str, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Table:
    """Rows and columns with a title, notes on the whole table, and sentences on what it shows."""

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    sentences: tuple[str, ...] = ()

    @property
    def mixed(self) -> bool:
        """Whether the table has both measured and published rows; published rows are then marked."""
        return len({row.source for row in self.rows}) > 1

    def __str__(self) -> str:
        from mllm_eval.report.terminal import terminal

        return terminal(self).rstrip("\n")

    def _repr_html_(self) -> Html:
        """The html that a notebook shows."""
        from mllm_eval.report.page import fragment

        return fragment(self)

    def footnotes(self) -> tuple[list[tuple[str, str]], dict[int, str]]:
        """The footnotes as (mark, text), each text once; and row index -> its marks, joined by commas."""
        marks: dict[str, str] = {}
        of_row: dict[int, str] = {}
        for index, row in enumerate(self.rows):
            for note in row.notes:
                marks.setdefault(note, _letter(len(marks)))
            if row.notes:
                of_row[index] = ",".join(marks[note] for note in dict.fromkeys(row.notes))
        return [(mark, text) for text, mark in marks.items()], of_row


def _letter(index: int) -> str:
    high, low = divmod(index, 26)
    return (_letter(high - 1) if high else "") + chr(ord("a") + low)


def printed(value: float | None, decimals: int, rounding: Rounding = "round") -> str:
    """A number as it is printed; a dash for None and nan. Rounds its shortest decimal text, so that 0.125 is a tie."""
    if value is None or math.isnan(value):
        return MISSING
    step = Decimal(1).scaleb(-decimals)
    text = str(Decimal(repr(float(value))).quantize(step, rounding=_MODES[rounding]))
    return text.removeprefix("-") if float(text) == 0 else text


def signed(value: float, decimals: int, typeset: bool = False) -> str:
    """A difference as it is printed: with its sign, 0 without one.

    `typeset`: with a minus sign instead of a hyphen, and 0 with a sign as well, as the other numbers of its column.
    """
    if typeset:
        return ("+" if value >= 0 else "−") + printed(abs(value), decimals)  # noqa: RUF001
    text = printed(value, decimals)
    return text if value < 0 or float(text) == 0 else f"+{text}"


def score_cell(
    value: float | None,
    column: Column,
    rounding: Rounding = "round",
    limits: tuple[float, float] | None = None,
) -> Cell:
    """The cell of a number; `limits` (low, high) add its interval."""
    text = printed(value, column.decimals, rounding)
    if value is None or limits is None or math.isnan(limits[0]):
        return Cell(text, value)
    low, high = limits
    shown = f"[{printed(low, column.decimals)}, {printed(high, column.decimals)}]"
    return Cell(text, value, low=low, high=high, interval=shown)


def with_best(rows: Sequence[Row], columns: Sequence[Column], scope: Literal["table", "group", "none"]) -> list[Row]:
    """Marks the best printed number of each column, including ties; measured and published rows separately."""
    if scope == "none":
        return list(rows)
    marked = list(rows)
    for column in columns:
        if column.text:
            continue
        top: dict[tuple[str, str], float] = {}
        size: dict[tuple[str, str], int] = {}
        for row in rows:
            cell = row.cells.get(column.key, Cell())
            if row.aside or cell.text == MISSING or cell.failed:
                continue
            key, number = _scope(row, scope), float(cell.text)
            size[key] = size.get(key, 0) + 1
            pick = max if column.better == "high" else min
            top[key] = pick(top.get(key, number), number)
        for index, row in enumerate(marked):
            cell, key = row.cells.get(column.key, Cell()), _scope(row, scope)
            # a number without others to compare with is not marked
            if row.aside or cell.text == MISSING or cell.failed or size[key] < 2 or float(cell.text) != top[key]:
                continue
            marked[index] = replace(row, cells={**row.cells, column.key: replace(cell, best=True)})
    return marked


def _scope(row: Row, scope: str) -> tuple[str, str]:
    return row.source, row.group if scope == "group" else ""


def with_deltas(
    rows: Sequence[Row], columns: Sequence[Column], base: str, keys: Sequence[str] | None = None
) -> list[Row]:
    """Adds to each number its difference to the row labelled `base`, as `(+6.4)`.

    It is the difference of the printed numbers, so that a reader can check it by subtraction.
    """
    anchor = next((row for row in rows if row.label == base), None)
    if anchor is None:
        return list(rows)
    changed = []
    for row in rows:
        cells = dict(row.cells)
        for column in columns:
            here, there = cells.get(column.key, Cell()), anchor.cells.get(column.key, Cell())
            asked = keys is None or column.key in keys
            asked = asked and here.counted == there.counted
            if row is anchor or column.text or not asked or MISSING in (here.text, there.text):
                continue
            gap = Decimal(here.text) - Decimal(there.text)
            cells[column.key] = replace(here, delta=f"({'+' if gap >= 0 else '−'}{abs(gap)})")  # noqa: RUF001
        changed.append(replace(row, cells=cells))
    return changed


def blocks(table: Table, width: int) -> list[list[Column]]:
    """Splits the columns into blocks that fit `width` characters next to the labels; groups stay whole if they fit."""
    room = width - max([len(row.label) + 4 + 12 * table.mixed for row in table.rows] + [8])
    sizes = {column.key: _letters(table, column) + 2 for column in table.columns}
    cut: list[list[Column]] = [[]]
    for _, members in groupby(table.columns, key=lambda column: column.group):
        part = list(members)
        used = sum(sizes[column.key] for column in cut[-1])
        if used + sum(sizes[column.key] for column in part) > room:
            cut.append([])
        for column in part:
            if sum(sizes[other.key] for other in (*cut[-1], column)) > room:
                cut.append([])
            cut[-1].append(column)
    return [block for block in cut if block]


def _letters(table: Table, column: Column) -> int:
    cells = [row.cells.get(column.key, Cell()) for row in table.rows]
    first = [sum(map(len, (cell.text, cell.delta, cell.marks, cell.failed))) + bool(cell.delta) + bool(cell.failed)
             for cell in cells]  # fmt: skip
    return max([len(column.title), *first, *(len(cell.interval) for cell in cells)])

"""Tables for a terminal. A wide table is split into blocks that fit, each with the row labels."""

from __future__ import annotations

import io
import os
import shutil
import sys

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from mllm_eval.escaping import line
from mllm_eval.report.table import Cell, Column, Row, Table, blocks


def terminal(table: Table, width: int | None = None, color: bool | None = None) -> str:
    """The table for a terminal of `width` columns (default: the current one), in colour if the terminal supports it."""
    if color is None:
        color = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    if width is None:
        width = shutil.get_terminal_size((120, 24)).columns
    out = io.StringIO()
    console = Console(
        file=out, width=width, force_terminal=color, no_color=not color, highlight=False, legacy_windows=False
    )
    notes, marks = table.footnotes()
    console.print(Text(line(table.title), style="bold"))
    for block in blocks(table, width):
        console.print(_drawn(table, block, marks))
    for sentence in table.sentences:
        console.print(Text(f"• {line(sentence)}"))
    for mark, text in notes:
        console.print(Text(f"{mark}  {line(text)}", style="dim"))
    for note in table.notes:
        console.print(Text(line(note), style="dim"))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def _label(row: Row, mark: str, tagged: bool) -> Text:
    text = Text(line(row.label), style="dim" if row.aside else "")
    if tagged and row.source == "published":
        text.append(" (published)", style="dim")
    if mark:
        text.append(f" {mark}", style="dim")
    return text


def _shown(cell: Cell) -> Text:
    text = Text(line(cell.text), style="bold green" if cell.best else "")
    if cell.failed:
        text.append(f" {line(cell.failed)}", style="bold red")
    for part, style in ((f" {cell.delta}" if cell.delta else "", "cyan"), (cell.marks, "yellow")):
        text.append(part, style=style)
    if cell.interval:
        text.append(f"\n{cell.interval}", style="dim")
    return text


def _drawn(table: Table, block: list[Column], marks: dict[int, str]) -> RichTable:
    drawn = RichTable(box=box.SIMPLE_HEAD, padding=(0, 1), collapse_padding=True, pad_edge=False)
    drawn.add_column("", no_wrap=True)
    for column in block:
        drawn.add_column(Text(line(column.title)), justify="left" if column.text else "right", no_wrap=True)
    group = ""
    for index, row in enumerate(table.rows):
        if row.group and row.group != group:
            drawn.add_row(Text(line(row.group), style="italic"))
        group = row.group
        drawn.add_row(
            _label(row, marks.get(index, ""), table.mixed),
            *(_shown(row.cells.get(c.key, Cell())) for c in block),
        )
    return drawn

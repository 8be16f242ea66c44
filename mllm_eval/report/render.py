"""Renders a table in one of five formats, and writes tables to files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from mllm_eval.errors import UserError, near
from mllm_eval.report.latex import latex
from mllm_eval.report.page import html
from mllm_eval.report.plaintext import csv, markdown
from mllm_eval.report.table import Table
from mllm_eval.report.terminal import terminal
from mllm_eval.storage import write_atomic

FORMATS: dict[str, Callable[[Table], str]] = {
    "terminal": terminal,
    "csv": csv,
    "md": markdown,
    "tex": latex,
    "html": html,
}
_ENDINGS = {"terminal": "txt"}


def render(table: Table, form: str = "terminal") -> str:
    """The table as text in one of `FORMATS`, ending in a newline. Raises UserError for an unknown format."""
    if form not in FORMATS:
        raise UserError(f"unknown format {form!r}.{near(form, FORMATS)} Known: {', '.join(FORMATS)}")
    return str(FORMATS[form](table))


def write_tables(
    table: Table, out_dir: Path, stem: str, formats: Sequence[str] = ("csv", "md", "tex", "html")
) -> list[Path]:
    """Writes the table to out_dir/stem.<ending> in each format, each file atomically. Returns the paths."""
    written = []
    for form in formats:
        path = Path(out_dir) / f"{stem}.{_ENDINGS.get(form, form)}"
        write_atomic(path, render(table, form))
        written.append(path)
    return written

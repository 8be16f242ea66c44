"""Reads sheets of answers (xlsx, tsv and csv) as rows of text, up to a size limit."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mllm_eval.errors import UserError, near

_ESCAPED = re.compile(r"_x(00[01][0-9A-Fa-f])_")
UNPACKED = 512 * 1024**2
"""Largest unpacked size of an xlsx in bytes; 14,233 answers of 512 tokens are about 50 MB."""


def sheet(path: Path, needed: Sequence[str], beside: Sequence[str] = ()) -> list[tuple[str, dict[str, str]]]:
    """(file:row, column -> text) of the first sheet, whose first row names the columns. Empty cells are "".

    needed: columns that must exist. beside: columns that are read if they exist.

    Raises:
        UserError: the file is not such a sheet, is too large unpacked, or lacks a column.
    """
    suffix = path.suffix.lower()
    if suffix not in (".xlsx", ".tsv", ".csv", ".txt"):
        raise UserError(f"{path}: a sheet is .xlsx, .tsv or .csv, not {suffix or 'a file without ending'!r}")
    rows = _xlsx(path) if suffix == ".xlsx" else _separated(path, "," if suffix == ".csv" else "\t")
    head = next(rows, [])
    for column in needed:
        if column not in head:
            raise UserError(f"{path}: column '{column}' is missing.{near(column, head)}")
    places = {column: head.index(column) for column in (*needed, *beside) if column in head}
    for column in places:
        if head.count(column) > 1:
            raise UserError(f"{path}: column '{column}' is there {head.count(column)} times")
    lines = []
    for number, cells in enumerate(rows, 2):
        if any(cells):
            texts = {name: cells[at] if at < len(cells) else "" for name, at in places.items()}
            lines.append((f"{path}:{number}", texts))
    return lines


def _separated(path: Path, mark: str) -> Iterator[list[str]]:
    import csv
    import sys

    csv.field_size_limit(sys.maxsize)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield from csv.reader(file, delimiter=mark)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: can't be read ({_short(error)})") from None


def _xlsx(path: Path) -> Iterator[list[str]]:
    try:
        import openpyxl
    except ImportError:
        raise UserError(f"{path}: reading xlsx needs openpyxl; install it or save the sheet as tsv") from None
    try:
        with zipfile.ZipFile(path) as parts:
            size = sum(part.file_size for part in parts.infolist())
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: not an xlsx file ({_short(error)})") from None
    if size > UNPACKED:
        raise UserError(f"{path}: {size / 1024**2:,.0f} MiB unpacked, at most {UNPACKED / 1024**2:,.0f} are read")
    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True, keep_links=False)
        try:
            for row in book.worksheets[0].iter_rows(values_only=True):
                yield [_text(value) for value in row]
        finally:
            book.close()
    except Exception as error:
        # openpyxl passes on whatever its parsers raise for a broken part.
        raise UserError(f"{path}: can't be read as xlsx ({_short(error)})") from None


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        # xlsx writes control characters as "_x000D_" (a carriage return), and openpyxl does not decode them.
        return _ESCAPED.sub(lambda match: chr(int(match[1], 16)), value)
    if isinstance(value, bool):
        return str(value)
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _short(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200] or type(error).__name__

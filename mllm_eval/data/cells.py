"""Cells of a csv: texts that are held against their column's type, and the image that a row names."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from string import Formatter
from typing import Any

from mllm_eval.errors import UserError, near
from mllm_eval.storage import parse_json

TYPES = ("string", "int32", "int64", "float32", "float64", "bool", "list<...>")
"""What the columns of a csv can be; a list is written as JSON."""
_BOOLS = {"true": True, "false": False}


def csv_lines(path: Path, aliases: Mapping[str, str]) -> Iterator[tuple[str, dict[str, str]]]:
    """(file and row, column -> text) of each row, the columns renamed by `aliases`.

    Raises UserError for a file that is no csv in UTF-8, a column named twice, and a row with other than its columns.
    """
    csv.field_size_limit(2**27)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = csv.reader(file, strict=True)
            head = [aliases.get(name, name) for name in next(lines, [])]
            if twice := next((name for name in head if head.count(name) > 1), None):
                raise UserError(f"{path}: column '{twice}' is there {head.count(twice)} times")
            rows = (cells for cells in lines if cells)
            for number, cells in enumerate(rows, 1):
                where = f"{path} row {number}"
                if len(cells) != len(head):
                    raise UserError(f"{where}: {len(cells)} cells under {len(head)} columns; a comma inside a text "
                                    "wants quotes around it")  # fmt: skip
                yield where, dict(zip(head, cells, strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not a csv file in UTF-8 ({error})") from None


def typed(text: str | None, kind: str, column: str, where: str) -> Any:
    """A cell as its column's type; of several (`int64|string`) the first.

    Raises UserError for a cell that is not of the type, and for a type that a csv can't have.
    """
    wanted = kind.split("|")[0].strip()
    if not isinstance(text, str):
        raise UserError(f"{where}: column '{column}' is empty, expected {kind}")
    if wanted == "string":
        return text
    try:
        value = _read(text, wanted)
    except KeyError:
        raise UserError(f"{where}: column '{column}' is declared as {kind}, which a csv can't have."
                        f"{near(wanted, TYPES)} Known: {', '.join(TYPES)}") from None  # fmt: skip
    except ValueError:
        as_json = ', written as JSON: ["one", "two"]' if wanted.startswith("list<") else ""
        shown = text if len(text) <= 60 else f"{text[:60]}..."
        raise UserError(f"{where}: column '{column}' is {shown!r}, expected {kind}{as_json}") from None
    return value


def _read(text: str, kind: str) -> Any:
    if kind in ("int32", "int64"):
        return int(text)
    if kind in ("float32", "float64"):
        return float(text)
    if kind == "bool":
        if text.strip().lower() not in _BOOLS:
            raise ValueError(text)
        return _BOOLS[text.strip().lower()]
    if kind.startswith("list<") and kind.endswith(">"):
        return _listed(parse_json(text, fields_once=False), kind)
    raise KeyError(kind)


def _listed(value: Any, kind: str) -> Any:
    """A value of JSON, if it is of the kind; ValueError otherwise, KeyError for a kind that does not exist."""
    if kind.startswith("list<"):
        if not isinstance(value, list):
            raise ValueError(value)
        return [_listed(item, kind[5:-1]) for item in value]
    plain = {"string": str, "int32": int, "int64": int, "float32": float, "float64": float, "bool": bool}[kind]
    if plain is float and type(value) in (int, float) and math.isfinite(value):
        return float(value)
    if plain is float or type(value) is not plain:
        raise ValueError(value)
    return value


def columns_of(template: str) -> list[str]:
    """The columns that a template for the name of a row's image is filled in from."""
    try:
        named = [name for _, name, _, _ in Formatter().parse(template) if name]
    except ValueError:
        return []
    return [re.split(r"[.\[]", name)[0] for name in named]


def filled_in(template: str, record: Mapping[str, Any], where: str) -> str:
    """The name of a row's image. Raises UserError for a template that the row has no column for."""
    try:
        return template.format(**record)
    except KeyError as error:
        name = str(error.args[0])
        raise UserError(f"{where}: `image_files: {template}` names the column '{name}', which is missing."
                        f"{near(name, record)}") from None  # fmt: skip
    except (ValueError, IndexError, AttributeError, TypeError) as error:
        raise UserError(f"{where}: `image_files: {template}` can't be filled in ({error})") from None

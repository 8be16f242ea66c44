"""Reads the cells of a csv as the types of their columns, and finds the image that a row names."""

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
"""Types that a csv's columns can have. A list is written as JSON."""
_BOOLS = {"true": True, "false": False}


def csv_lines(path: Path, aliases: Mapping[str, str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield ("file row N", column -> text) for each row of a csv, with columns renamed by `aliases`.

    Raises UserError for a file that is not a csv in UTF-8, a repeated column name, and a row with too few or too many
    cells.
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
    """Convert a cell to its column's type. If several types are allowed (`int64|string`), the first one is used.

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
    """Check a JSON value against a type. Raises ValueError if it does not fit, KeyError for an unknown type."""
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
    """Names of the columns in a template of image names; empty if the template is malformed."""
    try:
        named = [name for _, name, _, _ in Formatter().parse(template) if name]
    except ValueError:
        return []
    return [re.split(r"[.\[]", name)[0] for name in named]


def filled_in(template: str, record: Mapping[str, Any], where: str) -> str:
    """Fill in the name of a row's image. Raises UserError for a template that does not fit the row's columns."""
    try:
        return template.format(**record)
    except KeyError as error:
        name = str(error.args[0])
        raise UserError(f"{where}: `image_files: {template}` names the column '{name}', which is missing."
                        f"{near(name, record)}") from None  # fmt: skip
    except (ValueError, IndexError, AttributeError, TypeError) as error:
        raise UserError(f"{where}: `image_files: {template}` can't be filled in ({error})") from None

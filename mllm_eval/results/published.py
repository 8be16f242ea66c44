"""Published rows: the csv files of configs/reference, their numbers kept as the text they are printed as."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from mllm_eval.errors import UserError, near
from mllm_eval.results.columns import AVERAGE, columns
from mllm_eval.storage import SHIPPED

# Half a unit of the last printed digit, and the cells' own rounding: 40 of the paper's 41 rows are within it.
TOLERANCE = 0.0055


def reference_folder() -> Path:
    """The folder of the published tables."""
    return SHIPPED / "configs" / "reference"


def published(file: str | Path) -> pd.DataFrame:
    """A published table, every cell as text ("" where empty), columns under this project's names.

    `file` is a name in configs/reference or a path. Columns that `columns.yaml` does not know keep their
    names.
    """
    path = Path(file)
    if not path.is_file():
        path = reference_folder() / file
    if not path.is_file():
        known = [p.name for p in reference_folder().glob("*.csv")]
        raise UserError(f"{file}: no such published table.{near(str(file), known)}")
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False, comment=None)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a csv table ({error})") from None
    if not isinstance(frame.index, pd.RangeIndex):
        raise UserError(f"{path}: not a csv table (its first row has more cells than its head)")
    for key, column in columns().named().items():
        given = [name for name in column.csv if name in frame.columns]
        if given:
            frame = frame.rename(columns={given[0]: key})
    return frame


def number(text: str, where: str) -> float | None:
    """The number of a published cell, None for an empty one; UserError naming `where` otherwise."""
    if not text.strip():
        return None
    try:
        return float(text)
    except ValueError:
        raise UserError(f"{where}: {text!r} is not a number") from None


def values(row: pd.Series[str], where: str) -> dict[str, float]:
    """Benchmark -> number of a published row; benchmarks it does not have are left out."""
    numbers = {key: number(str(row[key]), f"{where}, {key}") for key in columns().benchmarks if key in row.index}
    return {key: value for key, value in numbers.items() if value is not None}


def contradiction(row: pd.Series[str], where: str) -> str | None:
    """What is wrong with a published row by its own numbers, in words, or None.

    The printed AVG must be the mean of the sixteen printed values. One row of the paper's is not (I-JEPA).
    """
    if AVERAGE not in row.index:
        return None
    printed = number(str(row[AVERAGE]), f"{where}, {AVERAGE}")
    counted = columns().means(values(row, where)).get(AVERAGE)
    if printed is None or counted is None or abs(counted - printed) <= TOLERANCE:
        return None
    return f"the source prints AVG {row[AVERAGE]}, its sixteen values give {counted:.2f}"

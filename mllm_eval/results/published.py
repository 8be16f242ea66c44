"""Read published rows from the csv files in configs/reference, with numbers as printed text."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from mllm_eval.errors import UserError, near
from mllm_eval.results.columns import AVERAGE, columns
from mllm_eval.storage import SHIPPED

# Half a unit of the last printed digit, plus the rounding of the cells; 40 of the paper's 41 rows are within it.
TOLERANCE = 0.0055


def reference_folder() -> Path:
    """Return the folder of the published tables."""
    return SHIPPED / "configs" / "reference"


def published(file: str | Path) -> pd.DataFrame:
    """Return a published table with every cell as text ("" where empty) and columns renamed to this project's keys.

    `file` is a name in configs/reference or a path. Columns that `columns.yaml` does not list keep their names.
    Raises UserError for a missing file, or one that is no csv table.
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
    """Return a published cell's number; None for an empty cell. Raises UserError, naming `where`, for other text."""
    if not text.strip():
        return None
    try:
        return float(text)
    except ValueError:
        raise UserError(f"{where}: {text!r} is not a number") from None


def values(row: pd.Series[str], where: str) -> dict[str, float]:
    """Return benchmark -> number of a published row, without empty cells. Raises UserError as `number` does."""
    numbers = {key: number(str(row[key]), f"{where}, {key}") for key in columns().benchmarks if key in row.index}
    return {key: value for key, value in numbers.items() if value is not None}


def contradiction(row: pd.Series[str], where: str) -> str | None:
    """Return a sentence if a published row contradicts itself; None if not.

    The printed AVG must be the mean of the sixteen printed values. In one of the paper's rows (I-JEPA) it is not.
    """
    if AVERAGE not in row.index:
        return None
    printed = number(str(row[AVERAGE]), f"{where}, {AVERAGE}")
    counted = columns().means(values(row, where)).get(AVERAGE)
    if printed is None or counted is None or abs(counted - printed) <= TOLERANCE:
        return None
    return f"the source prints AVG {row[AVERAGE]}, its sixteen values give {counted:.2f}"

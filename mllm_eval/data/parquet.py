"""Reads parquet files of unknown origin within limits. Every failure becomes one line that names the file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mllm_eval.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

BATCH = 64
"""Rows per read."""
GROUP_BYTES = 8 * 2**30
"""Largest uncompressed size of a row group, whose column of images is read at once."""


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn pyarrow's exceptions for a truncated, damaged or non-parquet file into a UserError."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as problem:
        first = (str(problem).strip().splitlines() or [type(problem).__name__])[0]
        raise UserError(f"{path}: can't be read as a parquet file ({first}); fetch or write it again") from None


def open_parquet(path: Path) -> pq.ParquetFile:
    """Open a parquet file. Raises UserError if it is not one, or if a row group is larger than `GROUP_BYTES`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with reading(path):
        # Bytes, since pyarrow refuses a str that is no valid UTF-8.
        valid = str(path) == str(path).encode("utf-8", "replace").decode()
        file = pq.ParquetFile(path if valid else pa.OSFile(os.fsencode(path)))
        # Raises an error here for names that are not valid Unicode, because columns are read by name.
        for name in file.schema_arrow.names:
            name.encode()
        sizes = [file.metadata.row_group(number).total_byte_size for number in range(file.num_row_groups)]
    if sizes and not 0 <= min(sizes) <= max(sizes) <= GROUP_BYTES:
        said = min(sizes) if min(sizes) < 0 else max(sizes)
        raise UserError(
            f"{path}: a row group of {said:,} bytes; those of at most {GROUP_BYTES:,} are read: write smaller ones"
        )
    return file


def rows_in(
    path: Path, file: pq.ParquetFile, groups: Sequence[int] | None = None, columns: Sequence[str] | None = None
) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file, or of some of its row groups, as plain data. Raises UserError if one can't be read."""
    with reading(path):
        # `columns` must exist: pyarrow silently skips unknown names.
        batches = file.iter_batches(batch_size=BATCH, row_groups=groups, columns=columns)
        for batch in batches:
            rows = batch.to_pylist()
            yield from rows


def column_in(path: Path, group: int, column: str) -> pa.ChunkedArray:
    """Read one column of a row group. Raises UserError if it can't be read or does not exist."""
    file = open_parquet(path)
    if group >= file.num_row_groups or column not in file.schema_arrow.names:
        raise UserError(f"{path}: has no row group {group} with a column {column!r}; it was replaced meanwhile")
    with reading(path):
        return file.read_row_group(group, columns=[column]).column(0)

"""Encoded images of a snapshot -> ImageRef: hashed when read, decoded when asked for, never trusted."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from mllm_eval.data.samples import ImageRef
from mllm_eval.errors import UserError
from mllm_eval.storage import sha256_bytes

if TYPE_CHECKING:
    import PIL.Image
    import pyarrow as pa

MAX_PIXELS = 100_000_000


def decode(data: bytes, where: str) -> PIL.Image.Image:
    """An encoded image as RGB (alpha dropped as PIL's convert does, frames after the first ignored).

    Raises UserError, naming `where`, for what is no image, is cut short or has over 100 million pixels.
    """
    import PIL.Image

    try:
        with PIL.Image.open(io.BytesIO(data)) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise UserError(f"{where}: image of {width} x {height} pixels, more than {MAX_PIXELS:,} in all")
            return image.convert("RGB")
    except UserError:
        raise
    except Exception as error:
        # PIL's plugins raise nearly anything on a broken file.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{where}: the image can't be decoded ({reason})") from None


def image_ref(data: bytes | None, where: str, reread: Callable[[], bytes]) -> ImageRef:
    """The reference of an image whose bytes are at hand now and can be read again later."""
    if not data:
        raise UserError(f"{where}: the image has no bytes")
    return ImageRef(sha256_bytes(data), lambda: decode(reread(), where))


def cell(path: Path, group: int, column: str, row: int, position: int) -> bytes:
    """The bytes of an image in a parquet file; `position` counts within a list column."""
    value = _column(path, path.stat().st_mtime_ns, group, column)[row].as_py()
    found = value[position] if isinstance(value, list) else value
    return bytes(found["bytes"])


@lru_cache(maxsize=4)
def _column(path: Path, written: int, group: int, column: str) -> pa.ChunkedArray:
    """A row group's column; `written` makes a file that was replaced another file."""
    import pyarrow.parquet as pq

    return pq.ParquetFile(path).read_row_group(group, columns=[column]).column(0)

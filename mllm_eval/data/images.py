"""Encoded images of a snapshot: hashed when read, decoded when asked for, never trusted."""

from __future__ import annotations

import io
from collections import OrderedDict
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple

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


def digest(data: bytes | None, where: str) -> str:
    """SHA-256 of an image's bytes as hex digits; UserError, naming `where`, for one that has none."""
    if not data:
        raise UserError(f"{where}: the image has no bytes")
    return sha256_bytes(data)


class FilePicture(NamedTuple):
    """An image in a file of its own."""

    sha256: str
    path: str
    where: str

    def load(self) -> PIL.Image.Image:
        """The image, decoded as `decode` does."""
        return decode(Path(self.path).read_bytes(), self.where)


class CellPicture(NamedTuple):
    """An image in a parquet file: in a row group's column, in a row of the group, at a place in its list if it is one.

    `number` is the row's in the whole file.
    """

    sha256: str
    path: str
    group: int
    column: str
    row: int
    position: int
    number: int

    def load(self) -> PIL.Image.Image:
        """The image, decoded as `decode` does."""
        path = Path(self.path)
        value = columns.get(path, path.stat().st_mtime_ns, self.group, self.column)[self.row].as_py()
        found = value[self.position] if isinstance(value, list) else value
        return decode(bytes(found["bytes"]), f"{path} row {self.number}, column '{self.column}'")


class _Columns:
    """The row groups' columns that were read last: neighbours are asked for one after the other."""

    def __init__(self, most: int = 4, bytes_: int = 256 * 2**20) -> None:
        self._most, self._bytes = most, bytes_
        self._held: OrderedDict[tuple[Path, int, int, str], pa.ChunkedArray] = OrderedDict()
        self._lock = Lock()

    def get(self, path: Path, written: int, group: int, column: str) -> pa.ChunkedArray:
        """A row group's column; `written` makes a file that was replaced another file."""
        import pyarrow.parquet as pq

        key = (path, written, group, column)
        with self._lock:
            if key not in self._held:
                # Room is made before: a row group of photographs takes hundreds of megabytes.
                while len(self._held) >= self._most or sum(one.nbytes for one in self._held.values()) > self._bytes:
                    self._held.popitem(last=False)
                self._held[key] = pq.ParquetFile(path).read_row_group(group, columns=[column]).column(0)
            self._held.move_to_end(key)
            return self._held[key]

    def clear(self) -> None:
        """Hold nothing."""
        with self._lock:
            self._held.clear()


columns = _Columns()

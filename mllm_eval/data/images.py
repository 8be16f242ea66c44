"""Encoded images of a snapshot: where they stand, hashed when read, decoded when asked for, never trusted."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple

from mllm_eval.data.parquet import column_in
from mllm_eval.decoding import PLAIN, Decoding, decode, pixels_key, size_of
from mllm_eval.errors import UserError

if TYPE_CHECKING:
    import PIL.Image
    import pyarrow as pa


def digest(data: bytes | None, where: str, how: Decoding = PLAIN) -> str:
    """The key of an image's pixels (`pixels_key`); UserError, naming `where`, for one that has no bytes."""
    if not data:
        raise UserError(f"{where}: the image has no bytes")
    return pixels_key(data, how)


class FilePicture(NamedTuple):
    """An image in a file of its own."""

    sha256: str
    path: str
    where: str
    how: Decoding = PLAIN

    def encoded(self) -> bytes:
        """The bytes of the file. Raises UserError where they can't be read."""
        try:
            return Path(self.path).read_bytes()
        except OSError as problem:
            raise UserError(f"{self.where}: the image can't be read ({problem.strerror})") from None

    def load(self) -> PIL.Image.Image:
        """The image, decoded as `decode` does."""
        return decode(self.encoded(), self.where, self.how)

    def size(self) -> tuple[int, int]:
        """Width and height of the image that `load` gives."""
        return size_of(self.encoded(), self.how, self.where)


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
    how: Decoding = PLAIN

    @property
    def where(self) -> str:
        """File, row and column."""
        return f"{self.path} row {self.number}, column '{self.column}'"

    def encoded(self) -> bytes:
        """The bytes in the table."""
        path = Path(self.path)
        try:
            value = columns.get(path, path.stat().st_mtime_ns, self.group, self.column)[self.row].as_py()
            image = value[self.position] if isinstance(value, list) else value
            return bytes(image["bytes"])
        except OSError as problem:
            raise UserError(f"{self.where}: the image can't be read ({problem.strerror})") from None
        except (IndexError, KeyError, TypeError):
            raise UserError(f"{self.where}: the image has no bytes, or the file was replaced") from None

    def load(self) -> PIL.Image.Image:
        """The image, decoded as `decode` does."""
        return decode(self.encoded(), self.where, self.how)

    def size(self) -> tuple[int, int]:
        """Width and height of the image that `load` gives."""
        return size_of(self.encoded(), self.how, self.where)


class _Columns:
    """The row groups' columns that were read last: neighbours are asked for one after the other."""

    def __init__(self, most: int = 4, bytes_: int = 256 * 2**20) -> None:
        self._most, self._bytes = most, bytes_
        self._held: OrderedDict[tuple[Path, int, int, str], pa.ChunkedArray] = OrderedDict()
        self._lock = Lock()

    def get(self, path: Path, written: int, group: int, column: str) -> pa.ChunkedArray:
        """A row group's column; `written` makes a file that was replaced another file."""
        key = (path, written, group, column)
        with self._lock:
            if key not in self._held:
                # Room is made before: a row group of photographs takes hundreds of megabytes.
                while len(self._held) >= self._most or sum(one.nbytes for one in self._held.values()) > self._bytes:
                    self._held.popitem(last=False)
                self._held[key] = column_in(path, group, column)
            self._held.move_to_end(key)
            return self._held[key]

    def clear(self) -> None:
        """Hold nothing."""
        with self._lock:
            self._held.clear()


columns = _Columns()

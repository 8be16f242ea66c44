"""Images of a snapshot, by their place in files: hashed when read, and decoded on access."""

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
    """Key of an image's pixels (`pixels_key`). Raises UserError that starts with `where` if it has no bytes."""
    if not data:
        raise UserError(f"{where}: the image has no bytes")
    return pixels_key(data, how)


class FilePicture(NamedTuple):
    """An image in its own file."""

    sha256: str
    path: str
    where: str
    how: Decoding = PLAIN

    def encoded(self) -> bytes:
        """Read the file's bytes. Raises UserError if it can't be read."""
        try:
            return Path(self.path).read_bytes()
        except OSError as problem:
            raise UserError(f"{self.where}: the image can't be read ({problem.strerror})") from None

    def load(self) -> PIL.Image.Image:
        """Decode the image as `decode` does. Raises UserError if it can't be read or decoded."""
        return decode(self.encoded(), self.where, self.how)

    def size(self) -> tuple[int, int]:
        """Width and height, in pixels, of the image that `load` returns."""
        return size_of(self.encoded(), self.how, self.where)


class CellPicture(NamedTuple):
    """An image in a parquet file, by row group, column, row in the group, and position in a list of images.

    `number` is the row's number in the whole file.
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
        """File, row and column, for messages."""
        return f"{self.path} row {self.number}, column '{self.column}'"

    def encoded(self) -> bytes:
        """Read the image's bytes from the table. Raises UserError if the file can't be read or was replaced."""
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
        """Decode the image as `decode` does. Raises UserError if it can't be read or decoded."""
        return decode(self.encoded(), self.where, self.how)

    def size(self) -> tuple[int, int]:
        """Width and height, in pixels, of the image that `load` returns."""
        return size_of(self.encoded(), self.how, self.where)


class _Columns:
    """A cache of the last columns of row groups, because neighbouring images are requested one after the other."""

    def __init__(self, most: int = 4, bytes_: int = 256 * 2**20) -> None:
        self._most, self._bytes = most, bytes_
        self._held: OrderedDict[tuple[Path, int, int, str], pa.ChunkedArray] = OrderedDict()
        self._lock = Lock()

    def get(self, path: Path, written: int, group: int, column: str) -> pa.ChunkedArray:
        """A row group's column. `written`, the file's time in nanoseconds, makes a replaced file miss the cache."""
        key = (path, written, group, column)
        with self._lock:
            if key not in self._held:
                # Evicted before reading, because a row group of photographs takes hundreds of megabytes.
                while len(self._held) >= self._most or sum(one.nbytes for one in self._held.values()) > self._bytes:
                    self._held.popitem(last=False)
                self._held[key] = column_in(path, group, column)
            self._held.move_to_end(key)
            return self._held[key]

    def clear(self) -> None:
        """Empty the cache."""
        with self._lock:
            self._held.clear()


columns = _Columns()

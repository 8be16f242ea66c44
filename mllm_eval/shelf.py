"""Lists whose items are kept on disk, so that memory does not grow with the number of pictures in a data set."""

from __future__ import annotations

import os
import pickle
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Sequence
from threading import Lock
from typing import Any, TypeVar, overload

T = TypeVar("T")

# Bytes per write, and per read when iterating over all items.
PIECE = 2**20


class Shelf(Sequence[T]):
    """A sequence whose items are kept in an unnamed temporary file, with 8 bytes of memory per item.

    An item is pickled when appended and unpickled at each access, so changes to a returned item have no effect. The
    file is in $TMPDIR and disappears with the shelf or the process. Several threads and forked processes may read at
    the same time; only one thread may append.
    """

    def __init__(self, items: Iterable[T] = ()) -> None:
        self._file = tempfile.TemporaryFile(prefix="mllm-eval-", buffering=0)  # noqa: SIM115  # open as long as this
        self._ends = array("Q", [0])
        self._coming = bytearray()
        self._lock = Lock()
        for item in items:
            self.append(item)
        self._write()

    def append(self, item: T) -> None:
        """Append an item."""
        data = pickle.dumps(item, pickle.HIGHEST_PROTOCOL)
        self._coming += data
        self._ends.append(self._ends[-1] + len(data))
        if len(self._coming) >= PIECE:
            self._write()

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        if isinstance(index, slice):
            return [self[number] for number in range(len(self))[index]]
        number = range(len(self))[index]
        start = self._ends[number]
        return self._item(self._bytes(start, self._ends[number + 1] - start))

    def __iter__(self) -> Iterator[T]:
        at = 0
        while at < len(self):
            first, start = at, self._ends[at]
            while at < len(self) and (at == first or self._ends[at + 1] - start <= PIECE):
                at += 1
            data = memoryview(self._bytes(start, self._ends[at] - start))
            for number in range(first, at):
                yield self._item(data[self._ends[number] - start : self._ends[number + 1] - start])

    def _item(self, data: Any) -> T:
        item: T = pickle.loads(data)
        return item

    def _bytes(self, start: int, length: int) -> bytes:
        if self._coming:
            self._write()
        return read_at(self._file.fileno(), start, length)

    def _write(self) -> None:
        with self._lock:
            while self._coming:
                self._coming = self._coming[self._file.write(self._coming) :]


def read_at(file: int, start: int, length: int) -> bytes:
    """Return `length` bytes of a file descriptor from offset `start`, fewer only at the end of the file.

    The file's current position is not changed.
    """
    data = os.pread(file, length, start)
    while 0 < len(data) < length and (more := os.pread(file, length - len(data), start + len(data))):
        data += more
    return data

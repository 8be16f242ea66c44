"""A shard of a feature store: rows of one size in a file, and an index that says whose they are.

`<name>.rows` holds rows one after another. `<name>.index` has a header of 40 bytes and 40 bytes a row in the same
order: SHA-256 of the image, CRC-32 of the row, CRC-32 of these 36 bytes. Both only grow, and a row is on the disk
before its entry is: what a crash cuts off has no entry, or one whose checksum is wrong, and does not count. Each
writing process makes shards of its own, so no two ever write to one file.
"""

from __future__ import annotations

import os
import secrets
import struct
import time
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

ENTRY = np.dtype([("image", np.uint8, (32,)), ("checksum", "<u4"), ("check", "<u4")])
MAGIC = b"mllmfea1"
# Magic, bytes of a row, and nothing.
HEADER = struct.Struct("<8sQ24x")
Bytes = NDArray[np.uint8]


class NotAShard(ValueError):
    """A file that is no index of rows of the expected size."""


def rows_file(index: Path) -> Path:
    """The rows of an index."""
    return index.with_suffix(".rows")


def entries_of(images: Sequence[str], checksums: Sequence[int]) -> bytes:
    """The entries of rows: images are SHA-256 in hex."""
    found = bytearray()
    for image, checksum in zip(images, checksums, strict=True):
        entry = bytes.fromhex(image) + checksum.to_bytes(4, "little")
        found += entry + zlib.crc32(entry).to_bytes(4, "little")
    return bytes(found)


def read_row_bytes(index: Path) -> int:
    """Bytes of a row, from an index's header. Raises NotAShard for another file, OSError if it can't be read."""
    with open(index, "rb") as file:
        head = file.read(HEADER.size)
    if len(head) < HEADER.size or not head.startswith(MAGIC):
        raise NotAShard("no header of an index")
    return int(HEADER.unpack(head)[1])


def read_entries(index: Path, row_bytes: int, after: int = 0) -> tuple[NDArray[np.void], NDArray[np.bool_]]:
    """The entries after the first `after`, and which of them count: whole, not dropped, with a row behind them.

    Raises NotAShard for a file of another form or size of row, OSError for one that can't be read.
    """
    if read_row_bytes(index) != row_bytes:
        raise NotAShard(f"rows of {read_row_bytes(index)} bytes, not {row_bytes}")
    rows = os.stat(rows_file(index)).st_size // row_bytes
    with open(index, "rb") as file:
        file.seek(HEADER.size + after * ENTRY.itemsize)
        data = file.read()
    whole = len(data) // ENTRY.itemsize
    view = memoryview(data)[: whole * ENTRY.itemsize]
    entries = np.frombuffer(view, ENTRY)
    checks = (zlib.crc32(view[at : at + 36]) for at in range(0, len(view), ENTRY.itemsize))
    good = np.fromiter(checks, np.uint32, whole) == entries["check"]
    good &= np.arange(after, after + whole) < rows
    return entries, good


def drop_entry(index: Path, row: int) -> None:
    """Make a row's entry one that does not count. A reader that has read it still finds the row's checksum wrong."""
    with open(index, "r+b") as file:
        file.seek(HEADER.size + row * ENTRY.itemsize)
        file.write(bytes(ENTRY.itemsize))


class ShardWriter:
    """A new shard of a folder, open for more rows; made empty at once, so that its name is taken."""

    def __init__(self, folder: Path, row_bytes: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.row_bytes = row_bytes
        self.count = 0
        self.process = os.getpid()
        # Names ascend with time; the token makes those of processes differ, and the flags see to it.
        self.name = f"{int(time.time()):010x}-{secrets.token_hex(6)}"
        self.index = folder / f"{self.name}.index"
        self._rows = self._index = -1
        flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC
        self._rows = os.open(rows_file(self.index), flags, 0o666)
        try:
            self._index = os.open(self.index, flags, 0o666)
            os.write(self._index, HEADER.pack(MAGIC, row_bytes))
        except OSError:
            self.close()
            raise

    @property
    def size(self) -> int:
        """Bytes of its rows."""
        return self.count * self.row_bytes

    def reserve(self, rows: int) -> None:
        """Make the file as large as so many more rows will make it, for others to reckon with."""
        os.ftruncate(self._rows, (self.count + rows) * self.row_bytes)

    def append(self, images: Sequence[str], rows: Bytes) -> None:
        """Add rows [n, row_bytes] and then their entries; both are on the disk when this returns."""
        if rows.shape != (len(images), self.row_bytes):
            raise ValueError(f"rows of shape {rows.shape} for {len(images)} images of {self.row_bytes} bytes")
        _write_all(self._rows, np.ascontiguousarray(rows).data.cast("B"), self.size)
        os.fsync(self._rows)
        entries = entries_of(images, [zlib.crc32(row.data) for row in rows])
        _write_all(self._index, memoryview(entries), HEADER.size + self.count * ENTRY.itemsize)
        os.fsync(self._index)
        self.count += len(images)

    def close(self) -> None:
        """Cut off what was reserved and not used; a shard without rows leaves no file."""
        if self._rows < 0 or self.process != os.getpid():
            return
        with suppress(OSError):
            os.ftruncate(self._rows, self.size)
        os.close(self._rows)
        if self._index >= 0:
            os.close(self._index)
        self._rows = self._index = -1
        if not self.count:
            remove(self.index)

    def __del__(self) -> None:
        self.close()


def _write_all(file: int, data: memoryview, at: int) -> None:
    while data:
        written = os.pwrite(file, data, at)
        data, at = data[written:], at + written


def remove(index: Path) -> None:
    """Remove a shard: the index first, so that no entry is ever without its row."""
    index.unlink(missing_ok=True)
    rows_file(index).unlink(missing_ok=True)


class RowReader:
    """Rows of many shards, by `pread`: a mapped file would count its pages as this process's memory."""

    OPEN = 64

    def __init__(self, row_bytes: int) -> None:
        self.row_bytes = row_bytes
        self._files: dict[Path, int] = {}

    def read(self, index: Path, row: int, into: memoryview) -> bool:
        """Read a row into a buffer of its size; False where it can't be read."""
        try:
            file = self._files.pop(index, -1)
            if file < 0:
                file = os.open(rows_file(index), os.O_RDONLY | os.O_CLOEXEC)
            # The one used last stands last.
            self._files[index] = file
            while len(self._files) > self.OPEN:
                os.close(self._files.pop(next(iter(self._files))))
            at = row * self.row_bytes
            while into:
                count = os.preadv(file, [into], at)
                if not count:
                    return False
                into, at = into[count:], at + count
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Close the files."""
        while self._files:
            os.close(self._files.popitem()[1])

    def __del__(self) -> None:
        self.close()

"""A shard of a store: a growing safetensors file with one tensor, and a text file that names the image of each row.

`<name>.safetensors` holds `features` [n, h * w + 1, D]. Line i of `<name>.index` holds the SHA-256 of row i's image and
the XXH3 of that SHA-256 and the row, in hex. The file's length and header are set before rows are written, so that
other tools can open the file at any time. A line is written only when its row is on disk (fsync), so a row that a crash
cuts off has no line. Each process writes its own shards. A process that reads or writes a shard holds a lock on it
(flock), which ends with the process; a locked shard is never removed.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mllm_eval import disk
from mllm_eval.storage import parse_json

# Size at which a shard is full. Shards are evicted whole; smaller ones would mean more files.
SHARD_BYTES = 2**30
SUFFIX = ".safetensors"
HEADER = 512
LINE = np.dtype([("image", "S64"), ("space", "S1"), ("checksum", "S16"), ("end", "S1")])
DROPPED = b"-" * 81 + b"\n"
KINDS = {"float32": ("F32", 4), "float16": ("F16", 2), "bfloat16": ("BF16", 2)}


class NotAShard(ValueError):
    """A file is no shard of features, or its rows have another size."""


class RowForm(NamedTuple):
    """The form of a row: dtype and shape [tokens, width]."""

    dtype: str
    tokens: int
    width: int

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return self.tokens * self.width * KINDS[self.dtype][1]

    def header(self, rows: int) -> bytes:
        """Return the header of a safetensors file with `rows` rows, padded to HEADER bytes."""
        tensor = {"dtype": KINDS[self.dtype][0], "shape": [rows, self.tokens, self.width]}
        tensor["data_offsets"] = [0, rows * self.row_bytes]
        text = json.dumps({"__metadata__": {"images": "line i of .index: row i"}, "features": tensor})
        return (HEADER - 8).to_bytes(8, "little") + text.encode().ljust(HEADER - 8)


def index_of(shard: Path) -> Path:
    """Return the path of a shard's index file."""
    return shard.with_suffix(".index")


def checksum(image: bytes, row: Any) -> bytes:
    """Return the XXH3 (64 bits, in hex) of an image's SHA-256 and the bytes of its row."""
    from xxhash import xxh3_64  # imported here, as listing stores does not need it

    digest = xxh3_64(image)
    digest.update(row)
    return digest.hexdigest().encode()


def read_form(shard: Path) -> RowForm:
    """Return the form of a shard's rows. Raises NotAShard for another file, OSError if it can't be read."""
    with open(shard, "rb") as file:
        head = file.read(HEADER)
    try:
        tensor = parse_json(head[8:], fields_once=False)["features"]
        kind = next(name for name, (code, _) in KINDS.items() if code == tensor["dtype"])
        return RowForm(kind, *map(int, tensor["shape"][1:]))
    except (ValueError, LookupError, TypeError, StopIteration):
        raise NotAShard("no shard of features") from None


def read_lines(shard: Path, form: RowForm, after: int = 0) -> tuple[NDArray[np.void], NDArray[np.bool_]]:
    """Return the index lines [n] after the first `after`, and which are valid [n]: complete, not dropped, with a row.

    Raises NotAShard for rows of another size, OSError if a file can't be read.
    """
    if (row_bytes := read_form(shard).row_bytes) != form.row_bytes:
        raise NotAShard(f"rows of {row_bytes} bytes, not {form.row_bytes}")
    with open(index_of(shard), "rb") as file:
        file.seek(after * LINE.itemsize)
        data = file.read()
    lines = np.frombuffer(data, LINE, len(data) // LINE.itemsize)
    # Read after the lines, since another process may be writing: a row is on disk before its line.
    rows = (shard.stat().st_size - HEADER) // form.row_bytes
    good = (lines["end"] == b"\n") & (lines["image"] != DROPPED[:64]) & (np.arange(after, after + len(lines)) < rows)
    return lines, good


def drop_line(shard: Path, row: int) -> None:
    """Overwrite a row's index line, so that the row is no longer valid."""
    with open(index_of(shard), "r+b") as file:
        file.seek(row * LINE.itemsize)
        file.write(DROPPED)


def hold(shard: Path) -> IO[bytes]:
    """Open and lock a shard; until the file is closed, no process removes the shard. Raises OSError if it is gone."""
    file = open(shard, "rb", buffering=0)  # noqa: SIM115
    with suppress(OSError):  # a file system without locks; there `unheld` fails, too, so shards are never removed
        fcntl.flock(file, fcntl.LOCK_SH)
    if not os.fstat(file.fileno()).st_nlink:
        file.close()
        raise FileNotFoundError(shard)
    return file


@contextmanager
def unheld(shard: Path) -> Iterator[bool]:
    """Yield whether no process holds a shard; if so, none can until the end of the `with` block."""
    with ExitStack() as opened:
        try:
            file = opened.enter_context(open(shard, "r+b"))
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            nobodys = True
        except OSError:
            nobodys = False
        yield nobodys


def remove(shard: Path) -> None:
    """Remove a shard; the index goes first, so that a line never lacks its row."""
    index_of(shard).unlink(missing_ok=True)
    shard.unlink(missing_ok=True)


class ShardWriter:
    """Creates a shard in a folder and appends rows to it. The caller must hold the root's lock on creation."""

    def __init__(self, folder: Path, form: RowForm) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.form, self.count, self.process = form, 0, os.getpid()
        # Names ascend with time. The token makes them unique; mode "x" fails if it does not.
        self.shard = folder / f"{int(time.time()):010x}-{secrets.token_hex(6)}{SUFFIX}"
        self._rows = open(self.shard, "xb", buffering=0)  # noqa: SIM115
        with suppress(OSError):
            fcntl.flock(self._rows, fcntl.LOCK_SH)
        self._index = open(index_of(self.shard), "xb", buffering=0)  # noqa: SIM115
        self.reserve(0)

    @property
    def full(self) -> bool:
        """Whether the shard takes no more rows."""
        return self.count * self.form.row_bytes >= SHARD_BYTES

    def reserve(self, rows: int) -> None:
        """Set length and header for `rows` more rows, so that other processes account for their space."""
        whole = self.count + rows
        self._rows.truncate(HEADER + whole * self.form.row_bytes)
        disk.write(self._rows.fileno(), self.form.header(whole), 0)

    def append(self, images: Sequence[str], rows: NDArray[np.uint8]) -> None:
        """Append rows uint8 [n, row_bytes] of images (SHA-256 in hex); they are on disk when this returns."""
        if rows.shape != (len(images), self.form.row_bytes):
            raise ValueError(f"rows of shape {rows.shape} for {len(images)} images of {self.form.row_bytes} bytes")
        lines = (
            b"%s %s\n" % (name := image.encode(), checksum(name, row)) for image, row in zip(images, rows, strict=True)
        )
        for file, data, at in (
            (self._rows, np.ascontiguousarray(rows).data.cast("B"), HEADER + self.count * self.form.row_bytes),
            (self._index, b"".join(lines), self.count * LINE.itemsize),
        ):
            disk.write(file.fileno(), data, at)
            disk.sync(file.fileno())
        self.count += len(images)

    def close(self) -> None:
        """Cut off unused reserved space and close the files; a shard without rows is removed."""
        if not self._rows.closed and self.process == os.getpid():
            with suppress(OSError):
                self.reserve(0)
            if not self.count:
                remove(self.shard)
        self._rows.close()
        self._index.close()

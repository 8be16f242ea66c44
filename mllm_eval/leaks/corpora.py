"""What is looked through: the images of a recipe's training sets, or those of a folder, tar shards or parquet files.

Each is cut into pieces, the unit of work and of going on: a piece's images always come in the same order.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from mllm_eval.config import short_hash
from mllm_eval.decoding import PLAIN, Decoding
from mllm_eval.errors import UserError
from mllm_eval.shelf import Shelf

ENDINGS = frozenset([".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"])
# Images of a piece, where a corpus has no pieces of its own.
PIECE = 4096


class Shown(NamedTuple):
    """An image: its name in the corpus, where it stands, and its bytes (which may raise UserError)."""

    number: int
    name: str
    where: str
    encoded: Callable[[], bytes]


class Corpus(Protocol):
    """Images in pieces."""

    @property
    def name(self) -> str: ...
    @property
    def identity(self) -> Any:
        """All that decides which images these are, as plain data."""
        ...

    @property
    def how(self) -> Decoding: ...
    @property
    def pieces(self) -> int: ...
    def images(self, piece: int, wanted: Collection[int] | None = None) -> Iterator[Shown]:
        """Those of a piece, or of its numbers `wanted`, in order.

        Raises UserError for a piece that can't be read on; what came before it counts.
        """
        ...


class Folder:
    """Image files, tar shards (WebDataset) and parquet files with a column of images, below a folder; or one such file.

    Raises UserError where there is none of them.
    """

    how = PLAIN

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().absolute()
        self.name = self.path.name
        if not self.path.exists():
            raise UserError(f"{path}: no such folder or file of images")
        self._files: Shelf[str] = Shelf()
        self._pieces: list[tuple[str, str, int]] = []
        """Kind, file (of `files` none), and number of the row group, or of the first of `PIECE` files."""
        states = []
        for file in self._walk():
            kind = _kind(file)
            if kind == "file":
                if len(self._files) % PIECE == 0:
                    self._pieces.append(("files", "", len(self._files)))
                self._files.append(str(file))
            elif kind:
                state = file.stat()
                states.append([str(file.relative_to(self.path.parent)), state.st_size, state.st_mtime_ns])
                groups = range(_groups(file)) if kind == "parquet" else range(1)
                self._pieces += [(kind, str(file), group) for group in groups]
        if not self._pieces:
            raise UserError(f"{path}: no images, tar shards or parquet files there ({', '.join(sorted(ENDINGS))})")
        self.identity = ["folder", str(self.path), short_hash([*states, self._digest()])]

    def _walk(self) -> Iterator[Path]:
        if self.path.is_file():
            yield self.path
            return
        for folder, folders, files in self.path.walk() if hasattr(self.path, "walk") else _walked(self.path):
            folders.sort()
            yield from (folder / name for name in sorted(files) if not name.startswith("."))

    def _digest(self) -> str:
        """Which image files there are, by name: a name whose content changed is not told."""
        import hashlib

        digest = hashlib.sha256()
        for name in self._files:
            digest.update(f"{name}\0".encode(errors="surrogateescape"))
        return digest.hexdigest()

    @property
    def pieces(self) -> int:
        return len(self._pieces)

    def images(self, piece: int, wanted: Collection[int] | None = None) -> Iterator[Shown]:
        """As `Corpus` says."""
        kind, file, first = self._pieces[piece]
        if kind == "files":
            for number in range(min(PIECE, len(self._files) - first)):
                if wanted is None or number in wanted:
                    path = Path(self._files[first + number])
                    name = str(path.relative_to(self.path)) if path != self.path else path.name
                    yield Shown(number, name, str(path), lambda path=path: read_file(path))  # type: ignore[misc]
        elif kind == "tar":
            yield from _of_tar(Path(file), wanted)
        else:
            yield from _of_parquet(Path(file), first, wanted)


def read_file(path: Path, where: str = "") -> bytes:
    """The bytes of an image file. Raises UserError, naming `where` too, where it can't be read."""
    try:
        return path.read_bytes()
    except OSError as problem:
        at = f"{where}, {path}" if where else str(path)
        raise UserError(f"{at}: the image can't be read ({problem.strerror})") from None


def _walked(path: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    import os

    return ((Path(folder), folders, files) for folder, folders, files in os.walk(path))


def _kind(path: Path) -> str:
    ending = path.suffix.lower()
    return "file" if ending in ENDINGS else {".tar": "tar", ".parquet": "parquet"}.get(ending, "")


def _of_tar(path: Path, wanted: Collection[int] | None) -> Iterator[Shown]:
    number = -1
    try:
        with tarfile.open(path, "r:") as shard:
            for member in shard:
                # All that was read so far is kept by the library otherwise.
                shard.members = []  # type: ignore[attr-defined]
                if not member.isfile() or _kind(Path(member.name)) != "file":
                    continue
                number += 1
                if wanted is not None and number not in wanted:
                    continue
                file = shard.extractfile(member)
                data = file.read() if file else b""
                where = f"{path}: {member.name}"
                if len(data) != member.size:
                    raise tarfile.ReadError("unexpected end of data")
                yield Shown(number, f"{path.name}/{member.name}", where, lambda data=data: data)  # type: ignore[misc]
    except (tarfile.TarError, OSError) as problem:
        raise UserError(f"{path}: the shard can't be read behind image {number + 1} ({problem})") from None


def _groups(path: Path) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return int(pq.ParquetFile(path).num_row_groups)
    except (pa.ArrowException, OSError) as problem:
        raise UserError(f"{path}: can't be read as parquet ({str(problem).splitlines()[0]})") from None


def _of_parquet(path: Path, group: int, wanted: Collection[int] | None) -> Iterator[Shown]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        column = _image_column(file.schema_arrow, path)
        number = -1
        for batch in file.iter_batches(batch_size=64, row_groups=[group], columns=[column]):
            for value in batch.column(0):
                number += 1
                if wanted is not None and number not in wanted:
                    continue
                data = value.as_py()
                data = data.get("bytes") if isinstance(data, dict) else data
                where = f"{path} row group {group}, row {number}, column '{column}'"

                def encoded(data: bytes | None = data, where: str = where) -> bytes:
                    if not data:
                        raise UserError(f"{where}: the image has no bytes")
                    return data

                yield Shown(number, f"{path.name}/{group}/{number}", where, encoded)
    except (pa.ArrowException, OSError) as problem:
        raise UserError(f"{path}: row group {group} can't be read ({str(problem).splitlines()[0]})") from None


def _image_column(schema: Any, path: Path) -> str:
    """The first column of bytes, or of structs that have some (the hub's layout)."""
    import pyarrow as pa

    for field in schema:
        kind = field.type
        if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            return str(field.name)
        if pa.types.is_struct(kind) and any(part.name == "bytes" for part in kind):
            return str(field.name)
    raise UserError(f"{path}: no column of images; it has {', '.join(schema.names)}")

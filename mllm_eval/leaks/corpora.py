"""The corpora that are searched: a recipe's training sets, or images in a folder, in tar shards or in parquet files.

Each corpus is divided into pieces, which are hashed and saved one at a time. The images of a piece always have the same
order.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from mllm_eval.data.imagecolumns import image_columns
from mllm_eval.data.parquet import open_parquet, rows_in
from mllm_eval.data.shards import IMAGES, WITHIN, Broken, is_picture, metadata_beside, name_of, shard_kind, tar_members
from mllm_eval.decoding import PLAIN, Decoding, encoded_image
from mllm_eval.errors import UserError
from mllm_eval.shelf import Shelf

# Number of images in a piece, if the corpus has no shards or row groups to serve as pieces.
PIECE = 4096


class Shown(NamedTuple):
    """An image of a piece: its number, its name, where it is stored, and a function that reads its bytes.

    The function may raise UserError.
    """

    number: int
    name: str
    where: str
    encoded: Callable[[], bytes]


class SearchedCorpus(Protocol):
    """A sequence of images in pieces."""

    @property
    def name(self) -> str: ...
    @property
    def identity(self) -> Any:
        """What names the corpus, as plain data. It stays when images are added or replaced; `state` does not."""
        ...

    @property
    def how(self) -> Decoding: ...
    @property
    def pieces(self) -> int: ...
    def state(self, piece: int) -> str:
        """Identifies the bytes of a piece without reading them: see `state_of`."""
        ...

    def images(self, piece: int, wanted: Collection[int] | None = None) -> Iterator[Shown]:
        """The images of a piece, or those with the numbers `wanted`, in order.

        Raises UserError if the piece can't be read further; images before that point count.
        """
        ...


def state_of(paths: Iterable[Path]) -> str:
    """Names, sizes, modification times and permissions of files as 16 hex digits; a missing file has none of these."""
    digest = hashlib.blake2b(digest_size=8)
    for path in paths:
        try:
            status = path.stat()
            told = f"{status.st_size} {status.st_mtime_ns} {status.st_mode}"
        except (OSError, ValueError) as problem:
            told = f"gone: {getattr(problem, 'errno', None)}"
        digest.update(f"{path}\0{told}\n".encode("utf-8", "backslashreplace"))
    return digest.hexdigest()


def existing(path: Path) -> Path:
    """Returns the absolute path of a folder or file of images. Raises UserError if there is none."""
    whole = path.expanduser().absolute()
    if not whole.exists():
        raise UserError(f"{path}: no such folder or file of images")
    return whole


class Folder:
    """Image files, tar shards (WebDataset) and parquet files with a column of images, in a folder; or one such file.

    Raises UserError if there are none.
    """

    how = PLAIN

    def __init__(self, path: Path) -> None:
        self.path = existing(path)
        self.name = self.path.name
        self._files: Shelf[str] = Shelf()
        self.left_out: list[str] = []
        """Parquet files that describe the images of a tar or folder beside them (img2dataset's metadata)."""
        self._pieces: list[tuple[str, str, int]] = []
        """Kind, file or folder ("" for `files`), and number of the row group, or index of the first image file."""
        for file in self._walk():
            kind = shard_kind(file.name)
            if is_picture(file.name):
                if len(self._files) % PIECE == 0:
                    self._pieces.append(("files", "", len(self._files)))
                self._files.append(str(file))
            elif kind:
                groups = _row_groups(file) if kind == "parquet" else 1
                self._pieces += [(kind, str(file), group) for group in range(groups)]
        if not self._pieces:
            raise UserError(f"{path}: no images, tar shards or parquet files there ({', '.join(IMAGES)})")
        self.identity = ["folder", str(self.path)]

    def _walk(self) -> Iterator[Path]:
        if self.path.is_file():
            yield self.path
            return
        for folder, folders, files in os.walk(self.path, onerror=self._unread):
            folders.sort()
            named = sorted(name for name in files if not name.startswith("."))
            metadata = metadata_beside(named, folders)
            for path in (Path(folder, name) for name in named):
                if path.name in metadata and not _holds_images(path):
                    self.left_out.append(name_of(str(path)))
                else:
                    yield path

    def _unread(self, problem: OSError) -> None:
        self._pieces.append(("folder", str(problem.filename), 0))

    @property
    def pieces(self) -> int:
        return len(self._pieces)

    def state(self, piece: int) -> str:
        """See `SearchedCorpus.state`."""
        kind, file, first = self._pieces[piece]
        if kind == "files":
            return state_of(map(Path, self._files[first : first + PIECE]))
        return f"{state_of([Path(file)])}-{first}"

    def images(self, piece: int, wanted: Collection[int] | None = None) -> Iterator[Shown]:
        """See `SearchedCorpus.images`."""
        kind, file, first = self._pieces[piece]
        if kind == "files":
            for number in range(min(PIECE, len(self._files) - first)):
                if wanted is None or number in wanted:
                    path = Path(self._files[first + number])
                    name = str(path.relative_to(self.path)) if path != self.path else path.name
                    where = name_of(str(path))
                    yield Shown(number, name_of(name), where, partial(encoded_image, path, where))
        elif kind == "folder":
            raise UserError(f"{name_of(file)}: the folder can't be listed; correct its permissions")
        elif kind == "tar":
            yield from _of_tar(Path(file), wanted)
        else:
            yield from _of_parquet(Path(file), first, wanted)


def read_file(path: Path, where: str = "") -> bytes:
    """The bytes of an image file. Raises UserError, which names `where` too, if it can't be read."""
    return encoded_image(path, f"{where}, {path}" if where else str(path))


def _of_tar(path: Path, wanted: Collection[int] | None) -> Iterator[Shown]:
    number = -1

    def take(name: str) -> bool:
        nonlocal number
        number += is_picture(name)
        return is_picture(name) and (wanted is None or number in wanted)

    try:
        for name, data, reason in tar_members(path, take):
            # An image that is cut by the shard's end is reported only once, as the damaged shard.
            if reason != WITHIN:
                where = f"{name_of(str(path))}: {name}"
                encoded = partial(_held, data, f"{where}: {reason or 'the image has no bytes'}")
                yield Shown(number, f"{name_of(path.name)}/{name}", where, encoded)
    except Broken as problem:
        raise UserError(
            f"{name_of(str(path))}: the shard can't be read behind image {number + 1} ({problem.reason})"
        ) from None


def _row_groups(path: Path) -> int:
    """The number of row groups; 1 for a file that can't be read, which is then one unreadable piece."""
    try:
        file = open_parquet(path)
        _image_column(file.schema_arrow, path)
    except UserError:
        return 1
    groups: int = file.num_row_groups
    return groups


def _holds_images(path: Path) -> bool:
    try:
        return bool(image_columns(open_parquet(path).schema_arrow))
    except UserError:
        return False


def _of_parquet(path: Path, group: int, wanted: Collection[int] | None) -> Iterator[Shown]:
    file = open_parquet(path)
    column = _image_column(file.schema_arrow, path)
    for number, row in enumerate(rows_in(path, file, [group], [column])):
        if wanted is None or number in wanted:
            value = row[column]
            data = value.get("bytes") if isinstance(value, dict) else value
            where = f"{name_of(str(path))} row group {group}, row {number}, column '{column}'"
            encoded = partial(_held, data, f"{where}: the image has no bytes")
            yield Shown(number, f"{name_of(path.name)}/{group}/{number}", where, encoded)


def _held(data: bytes | None, reason: str) -> bytes:
    if not data:
        raise UserError(reason)
    return data


def _image_column(schema: Any, path: Path) -> str:
    """The column of images: the one that is typed or named so, else the only one of bytes.

    Raises UserError if there is none, or if several could be it.
    """
    import pyarrow as pa

    def of_bytes(kind: Any) -> bool:
        plain = pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
        return plain or (pa.types.is_struct(kind) and any(part.name == "bytes" for part in kind))

    possible = image_columns(schema) or [str(field.name) for field in schema if of_bytes(field.type)]
    if len(possible) == 1:
        return possible[0]
    if possible:
        reason = f"several columns could hold the images ({', '.join(possible)}); keep one, or rename the others"
    else:
        reason = f"no column of images; it has {', '.join(schema.names)}"
    raise UserError(f"{name_of(str(path))}: {reason}")

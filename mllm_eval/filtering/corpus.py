"""A corpus of images in shards: WebDataset tars, parquet files, or parts of a folder of image files. No torch."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from mllm_eval.data.shards import IMAGES, TARS, is_picture, metadata_beside, name_of, shard_kind
from mllm_eval.errors import UserError
from mllm_eval.storage import sha256_bytes

Kind = Literal["tar", "parquet", "files"]
# Number of image files in a shard of a folder.
FILES = 1000
# Endings of the files that belong to an image.
BESIDE = (".txt", ".json")


@dataclass(frozen=True)
class Shard:
    """A part of a corpus that is filtered completely or not at all.

    name: relative to the corpus, unique in it, valid UTF-8. path: of the tar or parquet file, or of the folder of
    `files`. files: sorted paths of image files relative to `path`, with their text and json files.
    """

    name: str
    kind: Kind
    path: str
    files: tuple[str, ...] = ()

    @property
    def shown(self) -> str:
        """`path` for messages, as valid UTF-8."""
        return name_of(self.path)

    @classmethod
    def between(cls, name: str, path: str, first: str, last: str) -> Shard:
        """The shard of a folder that has the files from `first` to `last`, which are listed now."""
        names, end = [], _order_of(last)
        for one in _walked(Path(path), since=tuple(first.split("/")), listed=kept_names):
            if _order_of(one) > end:
                break
            names.append(one)
        return cls(name, "files", path, tuple(names))

    def signature(self) -> str:
        """Identifies the shard's bytes by names, sizes and modification times, without reading them; 16 hex digits.

        Raises UserError if a tar or parquet file is missing. A missing image file is part of the signature.
        """
        paths = [Path(self.path, name) for name in self.files] or [Path(self.path)]
        told = []
        for path, name in zip(paths, self.files or (self.name,), strict=True):
            try:
                status = path.stat()
            except OSError as problem:
                if not self.files:
                    raise UserError(f"{path}: cannot be read ({problem.strerror})") from None
                told.append(f"{name}\0gone\n")
                continue
            told.append(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\n")
        if any(file_key(name) != stem_of(name) for name in self.files):
            # Earlier versions ended these keys at the first dot; their decisions are made again.
            told.append("keys end at the last dot\n")
        return sha256_bytes("".join(told).encode("utf-8", "surrogateescape"))[:16]


@dataclass(frozen=True)
class Corpus:
    """The images below a place. `left_out`: parquet files that were taken for metadata and are not shards."""

    place: Path
    kind: Kind
    paths: tuple[str, ...]
    left_out: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """The number of shards. For a folder of image files this walks the folder."""
        return sum(1 for _ in self.shards()) if self.kind == "files" else len(self.paths)

    def shards(self) -> Iterator[Shard]:
        """The shards in the order of their names. Of a folder of images, only one shard is in memory at a time."""
        if self.kind == "files":
            yield from _parts(self.place)
            return
        for name in self.paths:
            path = self.place if self.place.is_file() else self.place / name
            yield Shard(name_of(name), self.kind, str(path))

    def holder(self, count: int) -> Callable[[str], bool]:
        """A function that says whether the corpus, which has `count` shards, has one with a name."""
        if self.kind == "files":
            names = {_part_name(number) for number in range(count)}
        else:
            names = {name_of(one) for one in self.paths}
        return names.__contains__

    def shard(self, name: str) -> Shard:
        """The shard with this name. Raises KeyError if there is none."""
        for one in self.shards():
            if one.name == name:
                return one
        raise KeyError(name)


def open_corpus(place: Path) -> Corpus:
    """The corpus in a file or folder: the tars in it, else the parquet files, else the images.

    A parquet file with the name of a tar or folder next to it is img2dataset's metadata: it describes the images and
    does not hold them. Raises UserError if the place does not exist or holds none of the three.
    """
    place = Path(place).expanduser().absolute()
    if place.is_file():
        kind = shard_kind(place.name)
        if kind is None:
            raise UserError(f"{place}: neither a tar ({', '.join(TARS)}) nor a parquet file; give one, or a folder")
        return Corpus(place, kind, (place.name,))
    if not place.is_dir():
        raise UserError(f"{place}: no such file or folder")
    by_kind: dict[Kind, list[str]] = {"tar": [], "parquet": [], "files": []}
    beside: list[str] = []
    for folder, inner, names in os.walk(place):
        inner.sort()
        below = Path(folder).relative_to(place)
        beside += [str(below / name) for name in metadata_beside([one for one in names if one[0] != "."], inner)]
        for name in sorted(names):
            kind = shard_kind(name)
            if kind is not None and not name.startswith("."):
                by_kind[kind].append(str(below / name))
            elif not by_kind["files"] and is_picture(name):
                by_kind["files"].append(name)
    parquet = sorted(set(by_kind["parquet"]).difference(beside))
    if by_kind["tar"]:
        return Corpus(place, "tar", tuple(sorted(by_kind["tar"])), tuple(sorted(by_kind["parquet"])))
    if parquet and not by_kind["files"]:
        return Corpus(place, "parquet", tuple(parquet), tuple(sorted(beside)))
    if by_kind["files"]:
        return Corpus(place, "files", (), tuple(sorted(by_kind["parquet"])))
    raise UserError(f"{place}: no tar, no parquet file and no image in it")


def _parts(place: Path) -> Iterator[Shard]:
    held: list[str] = []
    images = number = 0
    for name in _walked(place):
        is_image = is_picture(name)
        # Files with the same key stay in one shard.
        if is_image and images >= FILES and file_key(name) != file_key(held[-1]):
            yield _part(number, place, held)
            held, images, number = [], 0, number + 1
        held.append(name)
        images += is_image
    if images:
        yield _part(number, place, held)


def _part(number: int, place: Path, names: list[str]) -> Shard:
    return Shard(_part_name(number), "files", str(place), tuple(names))


def _part_name(number: int) -> str:
    return f"part-{number:05d}"


def folder_names(folder: str) -> tuple[str, ...]:
    """The names in a folder, in order."""
    return tuple(sorted(os.listdir(folder), key=_order))


# A worker lists the folder of its last shard again.
kept_names = lru_cache(maxsize=1)(folder_names)


def _walked(
    place: Path,
    below: str = "",
    since: tuple[str, ...] = (),
    listed: Callable[[str], tuple[str, ...]] = folder_names,
) -> Iterator[str]:
    """The relative paths of image, text and json files; those of one key are adjacent. Hidden files are left out.

    since: parts of the path to begin at; what comes before it is not looked at.
    """
    for name in listed(str(place / below)):
        relative = f"{below}/{name}" if below else name
        if name.startswith(".") or (since and _order(name) < _order(since[0])):
            continue
        try:
            is_folder = stat.S_ISDIR(os.stat(place / relative).st_mode)
        except OSError:
            # A broken link: reading it later reports it by name.
            is_folder = False
        if is_folder:
            yield from _walked(place, relative, since[1:] if since and name == since[0] else (), listed)
        elif name.lower().endswith((*IMAGES, *BESIDE)):
            yield relative


def _order(name: str) -> tuple[str, str, str]:
    """Sorts the names in a folder, with the files of one key side by side."""
    return name.partition(".")[0], file_key(name), name


def _order_of(path: str) -> list[tuple[str, str, str]]:
    return [_order(part) for part in path.split("/")]


def file_key(name: str) -> str:
    """The key of a file in a folder: its path without the ending of an image, a caption or fields."""
    lowered = name.lower()
    ending = next((one for one in (*IMAGES, *BESIDE) if lowered.endswith(one)), "")
    return name[: len(name) - len(ending)]


def archived(name: str) -> str:
    """The name that a file of a folder gets in a tar, where a key ends at the first dot: other dots become %2E."""
    head, slash, tail = file_key(name).rpartition("/")
    return f"{head}{slash}{tail.replace('.', '%2E')}{name[len(file_key(name)) :]}"


def stem_of(name: str) -> str:
    """The key of a tar member, as in WebDataset: its path up to the first dot of the file name. See also `file_key`."""
    head, slash, tail = name.rpartition("/")
    return f"{head}{slash}{tail.partition('.')[0]}"

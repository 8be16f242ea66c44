"""Files that hold many pictures of a corpus: their kinds by name, and the members of a tar as a stream. No torch."""

from __future__ import annotations

import gzip
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from mllm_eval.errors import UserError

TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".jp2", ".avif")
MEMBER_BYTES = 2**30
"""Largest size of a tar member in bytes. Members are read at once, and a small compressed tar can claim huge ones."""
WITHIN = "the shard ends within it"
# Exceptions from reading a damaged archive, in addition to an OSError without errno.
DAMAGED = (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile)


def shard_kind(name: str) -> Literal["tar", "parquet"] | None:
    """Kind of a file that holds many pictures, by its name; None for any other file."""
    lowered = name.lower()
    return "tar" if lowered.endswith(TARS) else "parquet" if lowered.endswith(".parquet") else None


def is_picture(name: str) -> bool:
    """Whether a file is treated as a picture, by its name."""
    return name.lower().endswith(IMAGES)


def metadata_beside(files: Sequence[str], folders: Sequence[str]) -> set[str]:
    """The parquet files that img2dataset's names make metadata: those with the name of a tar or folder beside them.

    They describe the images of that tar or folder. files, folders: the names in one folder. Only the names are looked
    at; a caller that reads parquet files of images beside tars must look into them.
    """
    described = {name.partition(".")[0] for name in files if shard_kind(name) == "tar"}.union(folders)
    return {name for name in files if name.endswith(".parquet") and name.removesuffix(".parquet") in described}


class Broken(Exception):
    """A shard is truncated, cannot be opened, or lacks a column. Members read before are valid.

    fault: `cut`, `unreadable` or `no column`.
    """

    def __init__(self, fault: Literal["cut", "unreadable", "no column"], reason: str) -> None:
        super().__init__(reason)
        self.fault, self.reason = fault, reason


class Member(NamedTuple):
    """A file of an archive or folder. `data` is None, with a `reason`, if it is not a plain file or can't be read."""

    name: str
    data: bytes | None
    reason: str = ""


def tar_members(path: Path | str, take: Callable[[str], bool] | None = None) -> Iterator[Member]:
    """Yield the members of a tar in order, without folders. Only one member is in memory at a time.

    take: decides by name which plain files are read; with it, all other members are skipped. Raises Broken if the tar
    has no end mark or ends within a member, and UserError if the system can't read the file.
    """
    with _opened(path) as archive:
        count = 0
        while True:
            begun = ""
            try:
                info = archive.next()
                if info is None:
                    break
                begun = name_of(info.name)
                # tarfile keeps every member in memory otherwise.
                archive.members.clear()
                if info.isdir():
                    continue
                count += 1
                if take is not None and not (info.isfile() and take(begun)):
                    continue
                member = read_member(archive, info, begun)
            except (*DAMAGED, OSError) as problem:
                _hold_to_archive(path, problem)
                if begun:
                    count -= 1
                    yield Member(begun, None, WITHIN)
                raise Broken("cut", f"{path}: ends behind {count} members ({first_line(problem)})") from None
            yield member
    if archive.ended != "EOFHeaderError":
        # tarfile treats the end of the file, or an invalid header, as the end of the archive.
        raise Broken("cut", f"{path}: ends behind {count} members without a mark of its end")


def read_member(archive: tarfile.TarFile, info: tarfile.TarInfo, name: str) -> Member:
    """Read a member of a tar under its name. Raises EOFError if the tar ends within it."""
    file = archive.extractfile(info) if info.isfile() else None
    if file is None:
        return Member(name, None, "it is no plain file")
    if info.size > MEMBER_BYTES:
        return Member(name, None, f"it has {info.size:,} bytes; at most {MEMBER_BYTES:,} are read")
    data = file.read()
    if len(data) < info.size:
        raise EOFError
    return Member(name, data)


class _Archive(tarfile.TarFile):
    """An archive that records why its last header was invalid."""

    ended = ""
    members: list[tarfile.TarInfo]


class _Info(tarfile.TarInfo):
    @classmethod
    def fromtarfile(cls, archive: Any) -> Any:
        try:
            return super().fromtarfile(archive)
        except tarfile.HeaderError as problem:
            archive.ended = type(problem).__name__
            raise


def _opened(path: Path | str) -> _Archive:
    try:
        # Opened as a stream without seeking, which also works on pipes and network disks.
        return _Archive.open(path, "r|*", tarinfo=_Info, errors="surrogateescape")
    except (*DAMAGED, OSError) as problem:
        _hold_to_archive(path, problem)
        raise Broken("unreadable", f"{path}: is no tar ({first_line(problem)})") from None


def _hold_to_archive(path: Path | str, problem: Exception) -> None:
    """Raise UserError if the system failed and not the archive, because the archive may be intact.

    bz2 reports damaged data as an OSError without errno.
    """
    if isinstance(problem, OSError) and problem.errno is not None:
        raise UserError(f"{path}: cannot be read ({problem.strerror})") from None


def name_of(name: str) -> str:
    """A name as valid UTF-8; undecodable bytes become escapes such as \\xe9."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def first_line(problem: BaseException) -> str:
    """The first line of an error's message, or its class name if it has none."""
    return str(problem).splitlines()[0] if str(problem) else type(problem).__name__

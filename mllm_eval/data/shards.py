"""Files that hold pictures of a corpus: which they are by name, and the members of a tar, as a stream. No torch."""

from __future__ import annotations

import gzip
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from mllm_eval.errors import UserError

TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".jp2", ".avif")
MEMBER_BYTES = 2**30
"""What a member of a tar may hold: it is read at once, and a compressed tar says of a few bytes that they are many."""
WITHIN = "the shard ends within it"
# What reading a damaged archive raises, beside an OSError without a number.
DAMAGED = (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile)


def shard_kind(name: str) -> Literal["tar", "parquet"] | None:
    """What a file that holds many pictures is, by its name; None for any other."""
    lowered = name.lower()
    return "tar" if lowered.endswith(TARS) else "parquet" if lowered.endswith(".parquet") else None


def is_picture(name: str) -> bool:
    """Whether a file is taken for a picture, by its name."""
    return name.lower().endswith(IMAGES)


class Broken(Exception):
    """A shard ends before its end, or cannot be opened; what was read of it before stands. fault: its kind."""

    def __init__(self, fault: Literal["cut", "unreadable"], reason: str) -> None:
        super().__init__(reason)
        self.fault, self.reason = fault, reason


class Member(NamedTuple):
    """A file of an archive or folder; `data` None where it is no plain file, too large, or could not be read."""

    name: str
    data: bytes | None
    reason: str = ""


def tar_members(path: Path | str, take: Callable[[str], bool] | None = None) -> Iterator[Member]:
    """The members of a tar, in its order, folders left out; one is held at a time.

    take: told the name of each plain file; those that it refuses are passed over unread, as is what is no plain file.
    Raises Broken where the tar ends without the mark of its end, or within a member, UserError where it can't be read.
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
                # tarfile keeps all it has met.
                archive.members.clear()
                if info.isdir():
                    continue
                count += 1
                if take is not None and not (info.isfile() and take(begun)):
                    continue
                member = _read(archive, info, begun)
            except (*DAMAGED, OSError) as problem:
                _hold_to_archive(path, problem)
                if begun:
                    count -= 1
                    yield Member(begun, None, WITHIN)
                raise Broken("cut", f"{path}: ends behind {count} members ({first_line(problem)})") from None
            yield member
    if archive.ended != "EOFHeaderError":
        # tarfile takes the end of the file, or a header that is none, for the end of the archive.
        raise Broken("cut", f"{path}: ends behind {count} members without a mark of its end")


def _read(archive: _Archive, info: tarfile.TarInfo, name: str) -> Member:
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
    """An archive that notes why the last header was none."""

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
        # As a stream: nothing is sought, so that pipes and network disks serve.
        return _Archive.open(path, "r|*", tarinfo=_Info, errors="surrogateescape")
    except (*DAMAGED, OSError) as problem:
        _hold_to_archive(path, problem)
        raise Broken("unreadable", f"{path}: is no tar ({first_line(problem)})") from None


def _hold_to_archive(path: Path | str, problem: Exception) -> None:
    """Raise UserError where the system failed, not the archive: what could not be read may be there.

    bz2 says with an OSError that its data are damaged, but gives no number of the system's.
    """
    if isinstance(problem, OSError) and problem.errno is not None:
        raise UserError(f"{path}: cannot be read ({problem.strerror})") from None


def name_of(name: str) -> str:
    """A name as UTF-8; bytes of it that are none stand as \\udc.. escapes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def first_line(problem: BaseException) -> str:
    """The first line of an error, or its class where it says nothing."""
    return str(problem).splitlines()[0] if str(problem) else type(problem).__name__

"""How bytes reach a disk, what is said where it refuses them, and how it is told that other bytes came back."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mllm_eval.errors import UserError

ELSEWHERE = "name a folder that can be written by MLLM_EVAL_RESULTS (data: MLLM_EVAL_DATA, models: HF_HOME)"
AGAIN = "and run the same command again: it goes on from what is kept"
MENDS = {
    errno.ENOSPC: f"make room on its disk {AGAIN}",
    errno.EDQUOT: f"make room within your quota {AGAIN}",
    errno.EFBIG: f"raise the limit of a file's size (`ulimit -f`) {AGAIN}",
    errno.EIO: f"look at the disk (`dmesg`), or take another by MLLM_EVAL_RESULTS, {AGAIN}",
    errno.ESTALE: f"mount its file system anew {AGAIN}",
    errno.EMFILE: f"raise the limit of open files (`ulimit -n`) {AGAIN}",
    errno.EROFS: f"its file system is mounted read-only; {ELSEWHERE}",
    errno.EACCES: f"change its permissions, or {ELSEWHERE}",
    errno.EPERM: f"change its permissions, or {ELSEWHERE}",
    errno.ENOTDIR: f"remove the file that stands where a folder should {AGAIN}",
    errno.EISDIR: f"remove the folder that stands where a file should {AGAIN}",
    errno.ENAMETOOLONG: "take shorter names",
}
# What the writers of libraries say, which raise no OSError: safetensors, torch.save, SQLite.
_OS_ERROR = re.compile(r"\(os error (\d+)\)")
_REFUSED = re.compile(r"PytorchStreamWriter|unexpected pos \d+ vs|file write failed|database or disk is full|disk I/O")


class NotWritten(UserError, OSError):
    """A file that the system would not write; what stood in its place before is still there."""

    reason = ""

    @classmethod
    def of(cls, path: Path, error: OSError) -> NotWritten:
        """The line on an error that came up while `path` was written: of another file where the error names one."""
        reason = error.strerror or str(error) or type(error).__name__
        named = Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else path
        # What lies beside it or below is this file on its way.
        other = named.is_absolute() and path.parent not in named.parents
        said = f"{named}: cannot be read or written" if other else f"{path}: cannot be written"
        refusal = cls(f"{said} ({reason}); {MENDS.get(error.errno or 0, f'mend that {AGAIN}')}")
        refusal.errno, refusal.reason = error.errno, reason
        return refusal

    @property
    def strerror(self) -> str:  # type: ignore[override]
        """The system's words."""
        return self.reason


@contextmanager
def saving(path: Path) -> Iterator[None]:
    """Say in one line that `path` could not be written, whatever writes it in the `with` block.

    Raises:
        NotWritten: the system refused; the writers of safetensors, torch and SQLite count like one's own.
    """
    try:
        yield
    except UserError:
        raise
    except OSError as error:
        if error.errno not in MENDS:
            raise
        raise NotWritten.of(path, error) from error
    except Exception as error:
        if (refused := _refused(error)) is None:
            raise
        raise NotWritten.of(path, refused) from error


def _refused(error: Exception) -> OSError | None:
    """What the system said where a library tells it in words of its own; None for any other exception."""
    if match := _OS_ERROR.search(str(error)):
        number = int(match[1])
        return OSError(number, os.strerror(number))
    if _REFUSED.search(str(error)):
        # Which of them it was is not told; a full disk is what it nearly always is.
        return OSError(errno.ENOSPC, str(error).strip().splitlines()[0])
    return None


def write(file: int, data: bytes | memoryview, at: int | None = None) -> None:
    """Write all of `data` to an open file, at an offset or where it stands: the system may take a part at a time."""
    rest = memoryview(data)
    while rest:
        done = os.write(file, rest) if at is None else os.pwrite(file, rest, at)
        if not done:
            raise OSError(errno.EIO, "nothing was written")
        rest = rest[done:]
        at = None if at is None else at + done


class Through(io.FileIO):
    """An open file as `io.BufferedWriter` takes it, written by `os.write`; closing it closes the file."""

    def __init__(self, file: int) -> None:
        super().__init__(file, "wb")

    def write(self, data: Any) -> int:
        """How many bytes the system took."""
        return os.write(self.fileno(), data)


def sync(file: int) -> None:
    """See to it that what was written to an open file is on the disk."""
    os.fsync(file)


def replace(fresh: Path | str, path: Path) -> None:
    """Put a finished file or folder into the place of another, so that a crash of the machine leaves one of them."""
    os.replace(fresh, path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """See to it that the names in a folder are on the disk; where a file system has no such thing, nothing is done."""
    with suppress(OSError):
        opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            sync(opened)
        finally:
            os.close(opened)


def sum_note(path: Path) -> Path:
    """Where the checksum of a file stands."""
    return path.with_name(f".{path.name}.sum")


def checksum(path: Path) -> str:
    """SHA-256 of a file, 64 hex digits. Raises OSError where it can't be read."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def as_written(path: Path) -> bool:
    """Whether a file's bytes are those that its note tells of; True where there is no note.

    Raises OSError where the file can't be read.
    """
    try:
        noted = sum_note(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return True
    return noted == checksum(path)


def counted_lines(lines: Iterable[bytes], digest: hashlib._Hash) -> Iterator[bytes]:
    """The lines as they are, each taken into a digest on its way."""
    for line in lines:
        digest.update(line)
        yield line

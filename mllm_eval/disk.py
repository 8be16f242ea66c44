"""Write files durably, report write errors in one line, and detect changed content by checksums."""

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
    errno.EEXIST: f"a file, or a link to a disk that is not mounted, stands where a folder should; {ELSEWHERE}",
    errno.EISDIR: f"remove the folder that stands where a file should {AGAIN}",
    errno.ENAMETOOLONG: "take shorter names",
}
# Messages of libraries whose writers raise no OSError: safetensors, torch.save, SQLite.
_OS_ERROR = re.compile(r"\(os error (\d+)\)")
_REFUSED = re.compile(r"PytorchStreamWriter|unexpected pos \d+ vs|file write failed|database or disk is full|disk I/O")


class NotWritten(UserError, OSError):
    """A file could not be written; its previous content is unchanged."""

    reason = ""

    @classmethod
    def of(cls, path: Path, error: OSError) -> NotWritten:
        """Return the error with a one-line message for an OSError raised while `path` was written.

        If the OSError names another file, the message is about that file.
        """
        reason = error.strerror or str(error) or type(error).__name__
        named = Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else path
        # A file in the same folder or below is a temporary one of `path` itself.
        other = named.is_absolute() and path.parent not in named.parents
        said = f"{named}: cannot be read or written" if other else f"{path}: cannot be written"
        refusal = cls(f"{said} ({reason}); {MENDS.get(error.errno or 0, f'mend that {AGAIN}')}")
        refusal.errno, refusal.reason = error.errno, reason
        return refusal

    @property
    def strerror(self) -> str:  # type: ignore[override]
        """The system's message."""
        return self.reason


@contextmanager
def saving(path: Path) -> Iterator[None]:
    """Convert write errors inside the `with` block to NotWritten, whose message is one line about `path`.

    Raises:
        NotWritten: the system could not write; errors of safetensors, torch and SQLite are recognised, too.
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
    """Return the OSError behind a library's own write error; None for any other exception."""
    if match := _OS_ERROR.search(str(error)):
        number = int(match[1])
        return OSError(number, os.strerror(number))
    if _REFUSED.search(str(error)):
        # The library does not name the system's error, which is nearly always a full disk.
        return OSError(errno.ENOSPC, str(error).strip().splitlines()[0])
    return None


def write(file: int, data: bytes | memoryview, at: int | None = None) -> None:
    """Write all of `data` to a file descriptor, at offset `at` or its current position, in several writes if needed."""
    rest = memoryview(data)
    while rest:
        done = os.write(file, rest) if at is None else os.pwrite(file, rest, at)
        if not done:
            raise OSError(errno.EIO, "nothing was written")
        rest = rest[done:]
        at = None if at is None else at + done


class Through(io.FileIO):
    """Raw file for `io.BufferedWriter` that writes by `os.write`; closing it closes the file descriptor."""

    def __init__(self, file: int) -> None:
        super().__init__(file, "wb")

    def write(self, data: Any) -> int:
        """Write and return the number of bytes that the system accepted."""
        return os.write(self.fileno(), data)


def sync(file: int) -> None:
    """Flush a file descriptor's data to disk."""
    os.fsync(file)


def replace(fresh: Path | str, path: Path) -> None:
    """Replace a file or folder by a finished one, so that one of them remains even if the machine crashes."""
    os.replace(fresh, path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk; does nothing on file systems that do not support it."""
    with suppress(OSError):
        opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            sync(opened)
        finally:
            os.close(opened)


def sum_note(path: Path) -> Path:
    """Return the path of a file's checksum file."""
    return path.with_name(f".{path.name}.sum")


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file, 64 hex digits. Raises OSError if it can't be read."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def as_written(path: Path) -> bool:
    """Whether a file matches its checksum file; True without a checksum file.

    Raises OSError if the file can't be read.
    """
    try:
        noted = sum_note(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return True
    return noted == checksum(path)


def counted_lines(lines: Iterable[bytes], digest: hashlib._Hash) -> Iterator[bytes]:
    """Yield the lines unchanged, and update a digest with each."""
    for line in lines:
        digest.update(line)
        yield line

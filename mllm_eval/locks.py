"""Locks between processes, and folders that one process creates while others wait."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO

from mllm_eval import disk
from mllm_eval.disk import saving
from mllm_eval.storage import read_text, write_atomic

log = logging.getLogger(__name__)

# Errors of flock on a file system without locks.
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)

_held: set[IO[bytes]] = set()


def _let_go_of_locks() -> None:
    """Close inherited lock files in a forked child, so that a lock ends with its owner even if the child survives."""
    while _held:
        _held.pop().close()


os.register_at_fork(after_in_child=_let_go_of_locks)


class FileLock:
    """Context that holds an exclusive lock on a file; the system releases it if the process dies.

    `waiting` is called once, before waiting for another process that holds the lock. On a file system without locks a
    warning is logged, and no lock is held.
    """

    def __init__(self, path: Path, waiting: Callable[[], None] | None = None) -> None:
        self.path = Path(path)
        self.waiting = waiting
        self._file: IO[bytes] | None = None

    def __enter__(self) -> FileLock:
        """Acquire the lock. Raises NotWritten if the lock's file can't be opened."""
        with saving(self.path):
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._file = open(self.path, "ab")
            except OSError as error:
                # On a read-only file system no process can write, so no lock is needed for reading.
                if error.errno == errno.EROFS and self.path.parent.is_dir():
                    return self
                raise
            try:
                self._hold(self._file)
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    self._file.close()
                    raise
                _say_no_locks(self.path.parent, error)
            _held.add(self._file)
        return self

    def _hold(self, file: IO[bytes]) -> None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if self.waiting:
                self.waiting()
            fcntl.flock(file, fcntl.LOCK_EX)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file:
            _held.discard(self._file)
            self._file.close()
            self._file = None


told_without_locks: set[int] = set()
"""Devices whose file systems have no locks, as this process has said in its log."""


def _say_no_locks(folder: Path, error: OSError) -> None:
    """Log the warning, once per file system."""
    device = os.stat(folder).st_dev
    if device not in told_without_locks:
        told_without_locks.add(device)
        said = "%s: its file system has no locks (%s): let one command at a time work there, or mount it with locks"
        log.warning(said, folder, error.strerror)


@contextmanager
def made_whole(target: Path, whole: str, version: str) -> Iterator[Path | None]:
    """Yield a path at which to create a folder that becomes `target` on exit; None if `target` is already complete.

    A folder is complete if its file `whole`, which is written last, contains `version`. Only one process creates the
    folder at a time. The rest of an interrupted attempt is removed.
    """
    with FileLock(target.with_name(f".{target.name}.lock")):
        if (target / whole).is_file() and read_text(target / whole).strip() == version:
            yield None
            return
        making = target.with_name(f".{target.name}.tmp")
        shutil.rmtree(making, ignore_errors=True)
        try:
            with saving(target):
                yield making
                write_atomic(making / whole, version + "\n")
                shutil.rmtree(target, ignore_errors=True)
                disk.replace(making, target)
        finally:
            shutil.rmtree(making, ignore_errors=True)

"""Leases: which shards living processes read or write. What is leased is not evicted.

A lease is a file under `<root>/.leases` with a line a shard, locked as long as its process lives; the system lets
the lock go when the process dies. Leases are made and read with the root's own lock held, so that nobody evicts a
shard between another's look and its lease.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import weakref
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

FOLDER = ".leases"


class Lease:
    """What one store of this process holds, until it is closed, forgotten, or the process ends."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.names: set[str] = set()
        self._file = -1
        self._release: weakref.finalize[..., Lease] | None = None

    def add(self, names: Iterable[str]) -> None:
        """Hold these shards, named `<store>/<shard>`, too. The caller has the root's lock."""
        new = [name for name in names if name not in self.names]
        if not new:
            return
        if self._file < 0:
            path = self.root / FOLDER / f"{os.getpid()}-{secrets.token_hex(6)}"
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o666)
            fcntl.flock(self._file, fcntl.LOCK_EX)
            self._release = weakref.finalize(self, _let_go, self._file, path, os.getpid())
        os.write(self._file, "".join(f"{name}\n" for name in new).encode())
        self.names.update(new)

    def close(self) -> None:
        """Hold nothing any more."""
        if self._release is not None:
            self._release()
        self._file, self.names = -1, set()


def _let_go(file: int, path: Path, process: int) -> None:
    # A forked child shares the lock and goes on reading when its parent has gone; it does not end it.
    if os.getpid() == process:
        path.unlink(missing_ok=True)
    with suppress(OSError):
        os.close(file)


def held(root: Path) -> set[str]:
    """The shards that any living process holds, as `<store>/<shard>`; leases of the dead are removed.

    The caller has the root's lock.
    """
    found: set[str] = set()
    for path in sorted((root / FOLDER).glob("*")):
        try:
            with open(path, "rb") as file:
                if _alive(file.fileno()):
                    found.update(file.read().decode().split())
                else:
                    path.unlink(missing_ok=True)
        except FileNotFoundError:
            continue
    return found


def _alive(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        # Locked, or on a file system that knows no locks: then nothing says that it is dead.
        return True
    return False

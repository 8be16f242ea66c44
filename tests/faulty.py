"""A disk that refuses: calls of the system on files below a folder fail from one on, or take a part only."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

WRITES = ("write", "pwrite")
# Kind -> the calls that it meets, and what they say.
KINDS: dict[str, tuple[tuple[str, ...], int]] = {
    "no space": (WRITES, errno.ENOSPC),
    "no space behind a part": (WRITES, errno.ENOSPC),
    "input/output error": (WRITES, errno.EIO),
    "rename": (("replace", "rename"), errno.EIO),
    "fsync": (("fsync",), errno.EIO),
    "open": (("open",), errno.EDQUOT),
}


class Faults:
    """Counts the calls that a fault would meet; the one of number `at` meets it, and those behind it, too."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.calls = 0

    @property
    def met(self) -> bool:
        return self.calls > self.at

    def __call__(self) -> bool:
        self.calls += 1
        return self.met


def _place(thing: Any) -> str:
    return os.readlink(f"/proc/self/fd/{thing}") if isinstance(thing, int) else os.fspath(thing)


@contextmanager
def faulty(kind: str, folder: Path, at: int) -> Iterator[Faults]:
    """Calls of a kind on what lies below `folder` fail from number `at` on, or write one byte at a time (`short`)."""
    faults = Faults(at)
    names, number = KINDS.get(kind, (WRITES, 0))
    with pytest.MonkeyPatch.context() as patch:
        for name in names:
            plain = getattr(os, name)

            def call(first: Any, *rest: Any, plain: Any = plain, **more: Any) -> Any:
                if not _place(first).startswith(str(folder)) or _only_read(plain, rest) or not faults():
                    return plain(first, *rest, **more)
                if kind in ("short", "no space behind a part") and len(rest[0]) > 1:
                    part = 1 if kind == "short" else max(1, len(rest[0]) // 2)
                    return plain(first, memoryview(rest[0])[:part], *rest[1:])
                if kind == "short":
                    return plain(first, *rest)
                raise OSError(number, os.strerror(number))

            patch.setattr(os, name, call)
        yield faults


def _only_read(plain: Any, rest: tuple[Any, ...]) -> bool:
    return plain.__name__ == "open" and not (rest and rest[0] & (os.O_WRONLY | os.O_RDWR))


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file grows beyond so many bytes, whoever writes it: the system takes a part, then says EFBIG."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

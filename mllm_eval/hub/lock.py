"""The lock of a snapshot: which files it has, and whether those on this machine still are these files."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mllm_eval.config import Strict, short_hash, validate
from mllm_eval.errors import UserError
from mllm_eval.storage import data_home, read_json, sha256_file, write_json

Kind = Literal["model", "dataset", "url"]


@dataclass(frozen=True, slots=True)
class Source:
    """Where files come from: a hub repository (`model`, `dataset`) at a revision, or a web address (`url`).

    `mend` is the command that fetches it, for messages.
    """

    kind: Kind
    repo: str
    revision: str | None = None
    mend: str = "fetch it again"

    def __str__(self) -> str:
        return self.repo if self.kind == "url" else f"{self.repo}@{self.revision or 'main'}"


class LockedFile(Strict):
    """Size in bytes and SHA-256 (64 hex digits) of a file."""

    size: int
    sha256: str


class Lock(Strict):
    """What was fetched: `revision` as it was asked for, `commit` as the hub resolved it, and the files.

    It says nothing of this machine: a lock made by someone else can be put in its place and holds here.
    """

    kind: Kind
    repo: str
    revision: str | None
    commit: str | None
    files: dict[str, LockedFile]

    @property
    def revision_found(self) -> str:
        """The commit, or for files that were brought without one, a hash of what they are."""
        return self.commit or f"files-{short_hash(self.files)}"


class Place(Strict):
    """Where the files of a lock are on this machine, and the state in which they were last read whole."""

    folder: str
    seen: dict[str, tuple[int, int]]


def lock_path(source: Source, home: Path | None = None) -> Path:
    """The lock's file: `locks/<kind>/<repo>@<revision>.json` under the data home."""
    name = str(source).partition("://")[2] or str(source)
    return (home or data_home()) / "locks" / source.kind / f"{name.replace('/', '--')}.json"


def read_lock(source: Source, home: Path | None = None) -> Lock | None:
    """The lock of a source, or None where there is none. Raises UserError for one that is damaged."""
    path = lock_path(source, home)
    if not path.is_file():
        return None
    lock = validate(read_json(path), Lock, str(path))
    if (lock.kind, lock.repo, lock.revision) != (source.kind, source.repo, source.revision):
        raise UserError(
            f"{path}: the lock of {lock.repo}@{lock.revision}, not of {source}; delete it, then {source.mend}"
        )
    return lock


def locked_files(folder: Path, names: Iterable[str]) -> dict[str, LockedFile]:
    """Size and SHA-256 of files of a folder. Raises UserError for one that is missing."""
    found = {}
    for name in sorted(names):
        path = folder / name
        if not path.is_file():
            raise UserError(f"{path}: no such file")
        found[name] = LockedFile(size=path.stat().st_size, sha256=sha256_file(path))
    return found


def write_lock(source: Source, lock: Lock, folder: Path, home: Path | None = None) -> Path:
    """Write a lock whose files were just checked in `folder`, and note that they lie there."""
    path = lock_path(source, home)
    seen = {name: _state(folder / name) for name in lock.files}
    write_json(_place_path(path), Place(folder=str(folder.absolute()), seen=seen).model_dump(mode="json"))
    write_json(path, lock.model_dump(mode="json"))
    return path


def locked_folder(source: Source, home: Path | None = None, whole: bool = False) -> Path:
    """The folder of a locked snapshot. Reads no network; every file's size is compared with the lock, and its
    content where the file was touched since it was last compared, or with `whole`.

    Raises:
        UserError: no lock, a file that is missing, or one that is not the lock's.
    """
    lock = read_lock(source, home)
    if lock is None:
        raise UserError(f"{source}: not on this machine, or not locked; {source.mend}")
    path = _place_path(lock_path(source, home))
    if not path.is_file():
        raise UserError(f"{source}: locked, but its files were never fetched to this machine; {source.mend}")
    place = validate(read_json(path), Place, str(path))
    folder = Path(place.folder)
    seen: dict[str, tuple[int, int]] = {}
    for name in lock.files:
        seen[name] = compare(folder / name, lock.files[name], source, None if whole else place.seen.get(name))
    if seen != place.seen:
        # Only a note that spares the next reading; in a folder that can't be written it is done without.
        with suppress(OSError):
            write_json(path, Place(folder=place.folder, seen=seen).model_dump(mode="json"))
    return folder


def compare(path: Path, expected: LockedFile, source: Source, seen: tuple[int, int] | None = None) -> tuple[int, int]:
    """Hold a file against its lock and return its state (size, time of change); reads it unless it is as `seen`.

    Raises UserError: missing, of another size, of other content.
    """
    if not path.is_file():
        raise UserError(f"{path}: the file is gone ({source} has it locked); {source.mend}")
    state = _state(path)
    if state[0] != expected.size:
        short = "cut short: " if state[0] < expected.size else ""
        raise UserError(
            f"{path}: {short}{state[0]:,} bytes, the lock of {source} says {expected.size:,}; "
            f"delete the file, then {source.mend}"
        )
    if state != seen and (found := sha256_file(path)) != expected.sha256:
        raise UserError(
            f"{path}: its SHA-256 is {found[:12]}..., the lock of {source} says {expected.sha256[:12]}...; "
            f"delete the file, then {source.mend}"
        )
    return state


def _state(path: Path) -> tuple[int, int]:
    status: Any = os.stat(path)
    return status.st_size, status.st_mtime_ns


def _place_path(lock: Path) -> Path:
    # Beside the lock, not in it: the place belongs to this machine, the lock to anyone.
    return lock.with_suffix(".place")

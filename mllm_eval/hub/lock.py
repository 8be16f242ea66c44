"""Locks: which files were downloaded, and the check that the files on this machine are still the same.

A lock names each file. The lock of a probe's data (`mllm_eval.probes.locking`) has a form of its own; both are read by
`read_as`, and `LockPlaces` beside them says where the files are.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, field_validator, model_validator

from mllm_eval.config import Strict, short_hash, validate
from mllm_eval.errors import UserError
from mllm_eval.storage import data_home, read_json, sha256_file, within, write_json

Kind = Literal["model", "dataset", "url"]
LockForm = TypeVar("LockForm", bound=Strict)
State = tuple[int, int]
"""Size in bytes, and modification time in nanoseconds."""
ONLY = "files"
"""Name of the only part in the lock of a model or a URL."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where files come from: a hub repository (`model`, `dataset`) at a revision, or a URL (`url`).

    mend: the command that downloads it, for messages.
    """

    kind: Kind
    repo: str
    revision: str | None = None
    mend: str = "fetch it again"

    @classmethod
    def of_model(cls, text: str) -> Source:
        """The model that a text `owner/name[@revision]` names; no part of it is checked."""
        repo, _, revision = text.partition("@")
        return cls("model", repo, revision or None)

    def __str__(self) -> str:
        return self.repo if self.kind == "url" else f"{self.repo}@{self.revision or 'main'}"


class LockedFile(Strict):
    """Size in bytes and SHA-256 (64 hex digits) of a file."""

    size: int = Field(ge=0)
    sha256: str


class LockedPart(Strict):
    """Files of one source. revision: as requested; commit: as resolved by the hub, None if unknown."""

    kind: Kind
    repo: str
    revision: str | None
    commit: str | None
    files: dict[str, LockedFile]

    @field_validator("files", mode="after")
    @classmethod
    def _below_the_folder(cls, files: dict[str, LockedFile]) -> dict[str, LockedFile]:
        # A lock may come from someone else, and its names are opened as paths.
        for name in files:
            within(Path(), name)
        return files


class Rows(Strict):
    """Facts about a benchmark's data. trusted: facts that the yaml does not pin, taken from the first download."""

    benchmark: str
    pin: str
    rows: int
    samples: int
    ids: str
    trusted: list[str]


class Lock(Strict):
    """A record of downloaded files. A model or URL is one part; a benchmark's data has one part per table, and rows.

    A lock contains nothing about this machine: a lock made elsewhere can be copied here and is valid.
    """

    parts: dict[str, LockedPart]
    data: Rows | None = None

    @model_validator(mode="before")
    @classmethod
    def _older(cls, raw: Any) -> Any:
        # Until version 0.1, a lock of one source was its part, and a benchmark's lock had its facts beside its tables.
        if isinstance(raw, dict) and "files" in raw:
            return {"parts": {ONLY: raw}}
        if isinstance(raw, dict) and isinstance(tables := raw.get("tables"), dict):
            parts = {name: {"kind": "dataset", **table} for name, table in tables.items()}
            return {"parts": parts, "data": {name: value for name, value in raw.items() if name != "tables"}}
        return raw

    @property
    def only(self) -> LockedPart:
        """The part of a lock of one source."""
        (part,) = self.parts.values()
        return part

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for part in self.parts.values() for file in part.files.values())

    @property
    def revision_found(self) -> str:
        """The commit, or a hash of the files if they were given without one."""
        return self.only.commit or f"files-{short_hash(self.only.files)}"


class LockPlaces(Strict):
    """Where the files of a lock are on this machine: the folder of each part, and the state of each file when it was
    last read completely. A lock that does not name its files has the part `ONLY`, and no states."""

    folders: dict[str, str]
    seen: dict[str, dict[str, State]]

    @model_validator(mode="before")
    @classmethod
    def _older(cls, raw: Any) -> Any:
        if isinstance(raw, dict) and "folder" in raw:
            return {"folders": {ONLY: raw["folder"]}, "seen": {ONLY: raw.get("seen") or {}}}
        return raw


def read_as(path: Path, form: type[LockForm]) -> LockForm | None:
    """Read a lock, or the file beside it, of this form; None if there is none. Raises UserError if it is damaged."""
    return validate(read_json(path), form, str(path)) if path.is_file() else None


def read(path: Path) -> Lock | None:
    """Read a lock file; None if there is none. Raises UserError if it is damaged."""
    return read_as(path, Lock)


def write(path: Path, lock: Lock, folders: Mapping[str, Path]) -> None:
    """Write a lock whose files were just read completely, and record the folders they are in."""
    seen = {name: {file: _state(folders[name] / file) for file in part.files} for name, part in lock.parts.items()}
    note_places(path, LockPlaces(folders={name: str(folder.absolute()) for name, folder in folders.items()}, seen=seen))
    write_json(path, lock.model_dump(mode="json"))


def places(path: Path) -> LockPlaces | None:
    """Where the files of a lock are on this machine; None if they were never downloaded or given here."""
    return read_as(_beside(path), LockPlaces)


def note_places(path: Path, places: LockPlaces) -> None:
    """Record where the files of a lock are. In an unwritable folder nothing is recorded, and no error is raised."""
    with suppress(OSError):
        write_json(_beside(path), places.model_dump(mode="json"))


def hold(path: Path, lock: Lock, missing: UserError, mend: str, whole: bool = False) -> dict[str, Path]:
    """Check that the files of a lock are unchanged, without the network. Returns the folder of each part.

    Every file's size is compared with the lock. Its content is hashed if the file changed since the last check, or
    with `whole`. Raises `missing` if the files were never here, and UserError for a missing or different file.
    """
    known = places(path)
    if known is None or set(known.folders) != set(lock.parts):
        raise missing
    seen: dict[str, dict[str, State]] = {}
    for name, part in lock.parts.items():
        source = Source(part.kind, part.repo, _named(part), mend)
        before = {} if whole else known.seen.get(name, {})
        folder = Path(known.folders[name])
        seen[name] = {
            file: compare_file(folder / file, part.files[file], source, before.get(file)) for file in part.files
        }
    if seen != known.seen:
        note_places(path, LockPlaces(folders=known.folders, seen=seen))
    return {name: Path(folder) for name, folder in known.folders.items()}


def _named(part: LockedPart) -> str | None:
    # Messages name a model by the revision in its yaml, and a table by its commit.
    return part.revision if part.kind != "dataset" else part.commit or part.revision


def lock_path(source: Source, home: Path | None = None) -> Path:
    """Path of a lock: `locks/<kind>/<repo>@<revision>.json` under the data home."""
    name = str(source).partition("://")[2] or str(source)
    return (home or data_home()) / "locks" / source.kind / f"{name.replace('/', '--')}.json"


def read_lock(source: Source, home: Path | None = None) -> Lock | None:
    """Read the lock of a source; None if there is none. Raises UserError if it is damaged or of another source."""
    path = lock_path(source, home)
    lock = read(path)
    if lock is None:
        return None
    only = next(iter(lock.parts.values())) if len(lock.parts) == 1 else None
    if only is None or (only.kind, only.repo, only.revision) != (source.kind, source.repo, source.revision):
        told = " + ".join(f"{part.repo}@{part.revision}" for part in lock.parts.values())
        raise UserError(f"{path}: the lock of {told}, not of {source}; delete it, then {source.mend}")
    return lock


def locked_files(folder: Path, names: Iterable[str]) -> dict[str, LockedFile]:
    """Size and SHA-256 of files in a folder. Raises UserError for a missing file."""
    files = {}
    for name in sorted(names):
        path = folder / name
        if not path.is_file():
            raise UserError(f"{path}: no such file")
        files[name] = LockedFile(size=path.stat().st_size, sha256=sha256_file(path))
    return files


def locked_folder(source: Source, home: Path | None = None, whole: bool = False) -> Path:
    """The folder of a locked snapshot, checked against its lock as `hold` does.

    Raises:
        UserError: there is no lock, or a file is missing or differs from the lock.
    """
    lock = read_lock(source, home)
    if lock is None:
        raise UserError(f"{source}: not on this machine, or not locked; {source.mend}")
    missing = UserError(f"{source}: locked, but its files were never fetched to this machine; {source.mend}")
    (folder,) = hold(lock_path(source, home), lock, missing, source.mend, whole).values()
    return folder


def compare_file(path: Path, expected: LockedFile, source: Source, seen: State | None = None) -> State:
    """Compare a file with its lock, and return its state. It is read only if its state differs from `seen`.

    Raises UserError if it is missing, or has another size or content.
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
    if state != seen and (digest := sha256_file(path)) != expected.sha256:
        raise UserError(
            f"{path}: its SHA-256 is {digest[:12]}..., the lock of {source} says {expected.sha256[:12]}...; "
            f"delete the file, then {source.mend}"
        )
    return state


def _state(path: Path) -> State:
    status: Any = os.stat(path)
    return status.st_size, status.st_mtime_ns


def _beside(path: Path) -> Path:
    # In a separate file, because a lock is independent of the machine and the folder is not.
    return path.with_suffix(".place")

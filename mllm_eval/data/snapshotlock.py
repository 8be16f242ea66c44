"""The lock of a benchmark's snapshot: its commit and files, and the check that they are still present.

A lock does not depend on the machine: copied to another data home, it makes the download there get the same files.
The folder of the files on this machine is in a `.place` file beside it. Nothing here uses the network.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from mllm_eval.catalog.benchmark import Benchmark, Pin, folder_of
from mllm_eval.errors import UserError
from mllm_eval.hub.lock import Lock, Rows, hold, read
from mllm_eval.storage import data_home


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A locked snapshot with all its files: expected rows and ids, and the files of each table in order."""

    rows: int
    ids: str
    files: dict[str, list[Path]]


def lock_path(benchmark: str, pin: str) -> Path:
    """Path of a lock: `locks/<benchmark>.<pin>.json` under the data home."""
    return data_home() / "locks" / f"{benchmark}.{pin}.json"


def mend(benchmark: str, pin: str) -> str:
    """The command that downloads a pin, for messages."""
    return f"run `mllm-eval data {benchmark} --data {pin}`"


def revision_of(pin: Pin, table: Pin) -> str | None:
    """The revision that the yaml pins a table to. A table in the pin's own repository shares the pin's revision."""
    return table.revision or (pin.revision if table.repo == pin.repo else None)


def matching(names: Iterable[str], pattern: str) -> list[str]:
    """The names that match a glob, sorted. As in a file system, `*` does not match `/` or hidden files."""
    parts = pattern.split("/")
    return sorted(
        name
        for name in names
        if len(own := name.split("/")) == len(parts) and all(map(fnmatchcase, own, parts)) and not _hidden(own)
    )


def _hidden(parts: list[str]) -> bool:
    return any(part.startswith(".") for part in parts)


def read_lock(benchmark: Benchmark, pin: str) -> Lock | None:
    """Read the lock of a pin and check it against the yaml; None if there is no lock.

    Raises:
        UserError: the lock is damaged, or the yaml now says something else.
    """
    path = lock_path(benchmark.name, pin)
    lock = read(path)
    if lock is None:
        return None
    asked = benchmark.data[pin]
    parts = asked.tables()
    said: list[tuple[str, object, object]] = [("tables", sorted(lock.parts), sorted(parts))]
    said += [(what, ours, pinned) for what, ours, pinned in _pinned(rows_of(lock, path), asked) if pinned is not None]
    for name, table in lock.parts.items():
        if name not in parts:
            continue
        said.append(("repo", table.repo, parts[name].repo))
        wanted = revision_of(asked, parts[name])
        if wanted not in (None, table.revision, table.commit):
            said.append(("revision", table.commit or "a folder of unknown revision", wanted))
        if not matching(table.files, parts[name].pattern):
            said.append(("path", ", ".join(sorted(table.files)[:2]), parts[name].pattern))
    for what, ours, pinned in said:
        if ours != pinned:
            raise UserError(
                f"{path}: locked {what} {ours}, but {folder_of(benchmark)}/benchmark.yaml now says {pinned}; "
                f"correct the yaml, or delete the lock and {mend(benchmark.name, pin)}"
            )
    return lock


def rows_of(lock: Lock, path: Path) -> Rows:
    """The rows section of a benchmark's lock. Raises UserError for a lock of something else."""
    if lock.data is None:
        raise UserError(f"{path}: key 'data' is missing: it is not a benchmark's lock; delete it")
    return lock.data


def _pinned(rows: Rows, pin: Pin) -> list[tuple[str, object, object]]:
    return [("rows", rows.rows, pin.rows), ("ids", rows.ids, pin.ids)]


def locked_snapshot(benchmark: Benchmark, pin: str, whole: bool = False) -> Snapshot:
    """The files of a locked pin, checked against the lock as `mllm_eval.hub.lock.hold` does.

    whole: hash the files again, even if their sizes and times are unchanged.

    Raises:
        UserError: there is no lock, or files were never downloaded here, are missing, or differ from the lock.
    """
    lock, path = read_lock(benchmark, pin), lock_path(benchmark.name, pin)
    command = mend(benchmark.name, pin)
    if lock is None:
        raise UserError(f"{benchmark.name}: its data pin '{pin}' is not on this machine, or not locked; {command}")
    missing = UserError(f"{benchmark.name}: '{pin}' is locked, but its files were never fetched here; {command}")
    folders = hold(path, lock, missing, command, whole)
    tables, rows = benchmark.data[pin].tables(), rows_of(lock, path)
    files = {
        name: [folders[name] / file for file in matching(part.files, tables[name].pattern)]
        for name, part in lock.parts.items()
    }
    return Snapshot(rows.rows, rows.ids, files)

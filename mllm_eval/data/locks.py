"""The lock of a benchmark's snapshot: which commit and files it is made of, and whether they are still there.

A lock says nothing of the machine it was made on: put into another data home, it holds the fetch there to the
same files. Where the files lie on this machine stands beside it (`.place`). Nothing here touches the network.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from mllm_eval.catalog.benchmark import Benchmark, Pin, folder_of
from mllm_eval.config import Strict, validate
from mllm_eval.errors import UserError
from mllm_eval.hub.lock import LockedFile, Source, compare
from mllm_eval.storage import data_home, read_json, write_json

State = tuple[int, int]
"""Size in bytes and time of change in nanoseconds."""


class LockedTable(Strict):
    """A table's files: of which repository, the `revision` asked for and the commit it was (None: unknown)."""

    repo: str
    revision: str | None
    commit: str | None
    files: dict[str, LockedFile]


class DataLock(Strict):
    """What a pin turned out to be. `trusted`: what the yaml did not pin and the first fetch decided."""

    benchmark: str
    pin: str
    rows: int
    samples: int
    ids: str
    trusted: list[str]
    tables: dict[str, LockedTable]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for table in self.tables.values() for file in table.files.values())


class Places(Strict):
    """Table -> its folder on this machine, and the state of each file when it was last read whole."""

    folders: dict[str, str]
    seen: dict[str, dict[str, State]]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A locked snapshot whose files are all here: rows and ids to hold it to, and each table's files in order."""

    rows: int
    ids: str
    files: dict[str, list[Path]]


def lock_path(benchmark: str, pin: str) -> Path:
    """`locks/<benchmark>.<pin>.json` under the data home."""
    return data_home() / "locks" / f"{benchmark}.{pin}.json"


def mend(benchmark: str, pin: str) -> str:
    """The command that fetches a pin, for messages."""
    return f"run `mllm-eval data {benchmark} --data {pin}`"


def revision_of(pin: Pin, table: Pin) -> str | None:
    """The revision that the yaml pins a table to; one of the pin's own repository shares the pin's."""
    return table.revision or (pin.revision if table.repo == pin.repo else None)


def matching(names: Iterable[str], pattern: str) -> list[str]:
    """The names that a glob matches, sorted; as in a folder, `*` does not reach over a `/`."""
    parts = pattern.split("/")
    return sorted(
        name
        for name in names
        if len(own := name.split("/")) == len(parts) and all(map(fnmatchcase, own, parts)) and not _hidden(own)
    )


def _hidden(parts: list[str]) -> bool:
    return any(part.startswith(".") for part in parts)


def read_lock(benchmark: Benchmark, pin: str) -> DataLock | None:
    """The lock of a pin, held against what the yaml pins now; None where there is none.

    Raises:
        UserError: a damaged lock, or one that the yaml has moved away from.
    """
    path = lock_path(benchmark.name, pin)
    if not path.is_file():
        return None
    lock = validate(read_json(path), DataLock, str(path))
    asked = benchmark.data[pin]
    parts = asked.tables()
    said: list[tuple[str, object, object]] = [("tables", sorted(lock.tables), sorted(parts))]
    said += [(what, ours, pinned) for what, ours, pinned in _pinned(lock, asked) if pinned is not None]
    for name, table in lock.tables.items():
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


def _pinned(lock: DataLock, pin: Pin) -> list[tuple[str, object, object]]:
    return [("rows", lock.rows, pin.rows), ("ids", lock.ids, pin.ids)]


def locked_snapshot(benchmark: Benchmark, pin: str, whole: bool = False) -> Snapshot:
    """The files of a locked pin. Sizes are compared with the lock, contents where a file was touched since, or all
    of them with `whole`.

    Raises:
        UserError: no lock, files that were never fetched here, are missing or are not those of the lock.
    """
    lock = read_lock(benchmark, pin)
    command = mend(benchmark.name, pin)
    if lock is None:
        raise UserError(f"{benchmark.name}: its data pin '{pin}' is not on this machine, or not locked; {command}")
    places = read_places(benchmark.name, pin)
    if places is None or set(places.folders) != set(lock.tables):
        raise UserError(f"{benchmark.name}: '{pin}' is locked, but its files were never fetched here; {command}")
    seen: dict[str, dict[str, State]] = {}
    files: dict[str, list[Path]] = {}
    for name, table in lock.tables.items():
        folder = Path(places.folders[name])
        source = Source("dataset", table.repo, table.commit or table.revision, command)
        known = {} if whole else places.seen.get(name, {})
        seen[name] = {
            file: compare(folder / file, expected, source, known.get(file)) for file, expected in table.files.items()
        }
        files[name] = [folder / file for file in matching(table.files, benchmark.data[pin].tables()[name].pattern)]
    if seen != places.seen:
        _write_places(benchmark.name, pin, Places(folders=places.folders, seen=seen))
    return Snapshot(lock.rows, lock.ids, files)


def read_places(benchmark: str, pin: str) -> Places | None:
    """Where a pin's files are on this machine, if they were fetched."""
    path = lock_path(benchmark, pin).with_suffix(".place")
    return validate(read_json(path), Places, str(path)) if path.is_file() else None


def write_lock(lock: DataLock, folders: dict[str, Path]) -> Path:
    """Write a lock whose files were just read whole in these folders."""
    seen = {name: {file: _state(folders[name] / file) for file in table.files} for name, table in lock.tables.items()}
    homes = {name: str(folder.absolute()) for name, folder in folders.items()}
    _write_places(lock.benchmark, lock.pin, Places(folders=homes, seen=seen))
    path = lock_path(lock.benchmark, lock.pin)
    write_json(path, lock.model_dump(mode="json"))
    return path


def _write_places(benchmark: str, pin: str, places: Places) -> None:
    path = lock_path(benchmark, pin).with_suffix(".place")
    try:
        write_json(path, places.model_dump(mode="json"))
    except OSError:
        # A data home that may only be read: the files are compared anew next time.
        return


def _state(path: Path) -> State:
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns

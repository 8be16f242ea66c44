"""Makes locks of data sets: gets the files, reads all rows, checks them against the yaml, and writes the lock."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mllm_eval.catalog.benchmark import Benchmark, Pin
from mllm_eval.data.snapshotlock import lock_path, locked_snapshot, matching, mend, read_lock, revision_of, rows_of
from mllm_eval.data.snapshots import ids_hash, read_samples
from mllm_eval.errors import UserError
from mllm_eval.hub.fetch import fetch_files
from mllm_eval.hub.lock import Lock, LockedPart, Rows, Source, locked_files, places, write
from mllm_eval.locks import FileLock
from mllm_eval.progress import Progress

MB = 1_000_000


@dataclass(frozen=True, slots=True)
class LocatedTable:
    """The files of a table, as recorded in a lock, and the folder they are in."""

    table: LockedPart
    folder: Path


def is_whole(benchmark: Benchmark, pin: str) -> bool:
    """Whether a pin is locked and its files match the lock. Raises UserError if the lock contradicts the yaml."""
    if read_lock(benchmark, pin) is None or places(lock_path(benchmark.name, pin)) is None:
        return False
    try:
        locked_snapshot(benchmark, pin)
    except UserError:
        return False
    return True


def fetched(benchmark: Benchmark, pin: str, progress: Progress) -> dict[str, LocatedTable]:
    """Get the files of each table of a pin from the hub; files that are present are not downloaded again.

    A locked pin is fetched at the commit of its lock. progress: called with (done, total) in megabytes. Raises
    UserError as `fetch_files` does, if no file matches a glob, and if the files are not one complete set.
    """
    asked, lock = benchmark.data[pin], read_lock(benchmark, pin)
    located: dict[str, LocatedTable] = {}
    commits: dict[str, str] = {}
    for name, part in asked.tables().items():
        held = lock.parts[name] if lock else None
        revision = revision_of(asked, part)
        # Tables of one repository must have the same commit, even if the repository changes between two requests.
        exact = (held and held.commit) or commits.get(part.repo) or revision
        source = Source("dataset", part.repo, exact, mend(benchmark.name, pin))
        choose = partial(_chosen, source, part.patterns)
        folder, commit, files = fetch_files(source, choose, lambda done, total: progress(*_megabytes(done, total)))
        commits[part.repo] = commit
        located[name] = LocatedTable(
            LockedPart(kind="dataset", repo=part.repo, revision=revision, commit=commit, files=files), folder
        )
    return located


def _chosen(source: Source, patterns: Iterable[str], listed: Sequence[str]) -> list[str]:
    names: list[str] = []
    for pattern in patterns:
        matched = matching(listed, pattern)
        if not matched:
            some = ", ".join(listed[:4]) or "nothing"
            raise UserError(f"{source}: has no files {pattern} (but {some}, ...); correct `path`, `config` or `split`")
        whole_set(matched, str(source))
        names += matched
    return names


def whole_set(names: Iterable[str], where: str) -> None:
    """Raise UserError if names that end in `-00001-of-00004` are not all parts of one table, each exactly once."""
    parts = [name for name in names if "-of-" in name]
    for name in parts:
        total = name.rpartition("-of-")[2][:5]
        same = [other for other in parts if other.rpartition("-of-")[2][:5] == total]
        if total.isdigit() and (len(same) != int(total) or len(parts) != len(same)):
            raise UserError(
                f"{where}: {len(parts)} files like {name} are not the {int(total)} parts of one table; "
                "pin another `revision`, or a narrower `path`"
            )


def _megabytes(done: int, total: int) -> tuple[int, int]:
    return done // MB, max(1, -(-total // MB))


def adopted(benchmark: Benchmark, pin: str, root: Path) -> dict[str, LocatedTable]:
    """Find the files of each table of a pin in a folder that the user gives. They are read in place, not copied.

    root: the data set itself, a folder that contains `<name>/` or `<owner>/<name>/`, or huggingface_hub's cache.
    Raises UserError if files are missing or incomplete, or if the cache holds another commit than the yaml pins.
    """
    asked = benchmark.data[pin]
    located: dict[str, LocatedTable] = {}
    for name, part in asked.tables().items():
        revision = revision_of(asked, part)
        folder = _folder(root, part, revision)
        commit = folder.name if folder.parent.name == "snapshots" else None
        if revision is not None and commit is not None and revision != commit and len(revision) == 40:
            raise UserError(f"{folder}: commit {commit[:12]} of {part.repo}, the yaml pins {revision[:12]}")
        chosen: list[str] = []
        for pattern in part.patterns:
            some = _names(folder, pattern)
            whole_set(some, str(folder))
            chosen += some
        files = locked_files(folder, chosen)
        table = LockedPart(kind="dataset", repo=part.repo, revision=revision, commit=commit, files=files)
        located[name] = LocatedTable(table, folder)
    return located


def _folder(root: Path, pin: Pin, revision: str | None) -> Path:
    if not root.is_dir():
        raise UserError(f"{root}: no such folder")
    owner, _, name = pin.repo.rpartition("/")
    cache = root / f"datasets--{owner}--{name}"
    wanted = revision
    if (ref := cache / "refs" / (revision or "main")).is_file():
        wanted = ref.read_text(encoding="utf-8").strip()
    places = [root / owner / name, root / name, cache / "snapshots" / (wanted or "main"), root]
    for folder in places:
        if _names(folder, pin.pattern):
            return folder
    raise UserError(
        f"{root}: no files {pin.pattern} of {pin.repo} in it, nor in {pin.repo}/, {name}/ or {cache.name}/snapshots/"
    )


def _names(folder: Path, pattern: str) -> list[str]:
    return matching((path.relative_to(folder).as_posix() for path in folder.glob(pattern) if path.is_file()), pattern)


def lock(benchmark: Benchmark, pin: str, located: dict[str, LocatedTable], rows_told: Progress) -> Lock:
    """Read all rows of the files, check them against the yaml and an existing lock, and write the lock.

    rows_told: called with (rows read, expected rows).

    Raises:
        UserError: a column is missing or has another type, a row can't be read, the rows or ids differ from the yaml's
            pin, the files differ from the lock's, or the lock can't be written. The old lock and the files then stay.
    """
    asked = benchmark.data[pin]
    before = read_lock(benchmark, pin)
    for name, one in located.items():
        _same(benchmark, pin, one, before.parts[name] if before else None)
    files = {
        name: [located[name].folder / file for file in matching(located[name].table.files, part.pattern)]
        for name, part in asked.tables().items()
    }
    total = asked.rows or 0
    samples, rows = read_samples(
        benchmark, pin, asked, files, told=lambda done: rows_told(done, max(total, done)) if done % 64 == 0 else None
    )
    path = lock_path(benchmark.name, pin)
    known = rows_of(before, path) if before else None
    trusted = [what for what, pinned in _pins(asked).items() if pinned is None]
    facts = Rows(
        benchmark=benchmark.name,
        pin=pin,
        rows=rows,
        samples=len(samples),
        ids=ids_hash(sample.id for sample in samples),
        trusted=known.trusted if known else trusted,
    )
    parts = {name: _known_commit(one.table, before.parts[name] if before else None) for name, one in located.items()}
    made = Lock(parts=parts, data=facts)
    if known and (known.rows, known.ids) != (facts.rows, facts.ids):
        raise UserError(f"{path}: its files give {facts.rows} rows, it says {known.rows}")
    try:
        with FileLock(path.with_suffix(".lock")):
            write(path, made, {name: one.folder for name, one in located.items()})
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; set MLLM_EVAL_DATA to a folder that may be written") from None
    return made


def _pins(pin: Pin) -> dict[str, object]:
    return {"revision": pin.revision, "rows": pin.rows, "ids": pin.ids}


def _known_commit(table: LockedPart, before: LockedPart | None) -> LockedPart:
    return table.model_copy(update={"commit": table.commit or (before.commit if before else None)})


def _same(benchmark: Benchmark, pin: str, located: LocatedTable, before: LockedPart | None) -> None:
    if before is None:
        return
    for name in sorted({*before.files, *located.table.files}):
        ours, theirs = before.files.get(name), located.table.files.get(name)
        if ours != theirs:
            what = "is missing" if theirs is None else "is not in" if ours is None else "is another file than in"
            raise UserError(
                f"{located.folder / name}: {what} the lock {lock_path(benchmark.name, pin)}; "
                f"delete the lock if the change is meant, then {mend(benchmark.name, pin)}"
            )

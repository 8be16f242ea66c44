"""From files to a lock: fetched or found in a folder, read whole, held against the yaml, written down."""

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
from mllm_eval.hub.lock import Lock, Part, Rows, Source, locked_files, places, write
from mllm_eval.locks import FileLock
from mllm_eval.progress import Progress

MB = 1_000_000


@dataclass(frozen=True, slots=True)
class Found:
    """A table's files: what they are, and where."""

    table: Part
    folder: Path


def is_whole(benchmark: Benchmark, pin: str) -> bool:
    """Whether a pin is locked and every file is here and is the lock's. Raises UserError for a lock that is wrong."""
    if read_lock(benchmark, pin) is None or places(lock_path(benchmark.name, pin)) is None:
        return False
    try:
        locked_snapshot(benchmark, pin)
    except UserError:
        return False
    return True


def fetched(benchmark: Benchmark, pin: str, progress: Progress) -> dict[str, Found]:
    """The files of each table of a pin, fetched from the hub as far as they are not here.

    A pin that is locked is fetched at the commit of its lock; `progress` gets megabytes. Raises UserError as
    `fetch_files` does, and for files that no glob matches or that are not one whole set.
    """
    asked, lock = benchmark.data[pin], read_lock(benchmark, pin)
    located: dict[str, Found] = {}
    commits: dict[str, str] = {}
    for name, part in asked.tables().items():
        held = lock.parts[name] if lock else None
        revision = revision_of(asked, part)
        # Tables of one repository are of one commit, whatever happens there between two requests.
        exact = (held and held.commit) or commits.get(part.repo) or revision
        source = Source("dataset", part.repo, exact, mend(benchmark.name, pin))
        choose = partial(_chosen, source, part.patterns)
        folder, commit, files = fetch_files(source, choose, lambda done, total: progress(*_megabytes(done, total)))
        commits[part.repo] = commit
        located[name] = Found(
            Part(kind="dataset", repo=part.repo, revision=revision, commit=commit, files=files), folder
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
    """UserError where names that end in `-00001-of-00004` are not all the parts of one table, each once."""
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


def adopted(benchmark: Benchmark, pin: str, root: Path) -> dict[str, Found]:
    """The files of each table of a pin in a folder that someone brought: read where they are, not copied.

    `root` holds the data set itself, `<name>/`, `<owner>/<name>/`, or is huggingface_hub's cache.
    """
    asked = benchmark.data[pin]
    located: dict[str, Found] = {}
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
        table = Part(kind="dataset", repo=part.repo, revision=revision, commit=commit, files=files)
        located[name] = Found(table, folder)
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


def lock(benchmark: Benchmark, pin: str, located: dict[str, Found], rows_told: Progress) -> Lock:
    """Read all rows of these files, hold them against the yaml and the lock there is, and write the lock.

    Raises:
        UserError: a column that is missing or of another type, a row that can't be read, other rows or ids than
            the yaml pins, other files than the lock's. Nothing is locked then; the files stay.
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


def _known_commit(table: Part, before: Part | None) -> Part:
    return table.model_copy(update={"commit": table.commit or (before.commit if before else None)})


def _same(benchmark: Benchmark, pin: str, located: Found, before: Part | None) -> None:
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

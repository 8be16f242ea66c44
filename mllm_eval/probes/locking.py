"""Locks a probe's data: fetches or finds them, hashes every file, and checks later uses against that lock.

`mllm_eval.hub.lock` names every file with its size and SHA-256. ImageNet has 1.4 million files, whose names and sums
alone would be hundreds of megabytes in a lock. A lock of a probe's data therefore has one sum over all names and sizes,
and one over all names and contents. Both kinds of lock are read, and tell where their files are, in the same way.
"""

from __future__ import annotations

import hashlib
import heapq
import os
import re
import shutil
import stat
import zipfile
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from fnmatch import fnmatchcase
from itertools import groupby, islice, pairwise
from pathlib import Path

from mllm_eval.catalog.probe import ProbeData, Protocol
from mllm_eval.config import Strict, short_hash
from mllm_eval.decoding import decoders
from mllm_eval.errors import UserError
from mllm_eval.hub import Source
from mllm_eval.hub.fetch import fetch_files, fetch_url
from mllm_eval.hub.lock import ONLY, LockPlaces, note_places, places, read_as
from mllm_eval.locks import FileLock
from mllm_eval.probes.examples import Example, Examples
from mllm_eval.probes.layouts import read_examples
from mllm_eval.progress import Progress, unheard
from mllm_eval.storage import data_home, sha256_file, within, write_json

MEMBERS, UNPACKED = 2_000_000, 2**39
"""Limits on the files and bytes of an archive. ImageNet-1k, the largest data set, has 1.4 million files of 150 GB."""


# Files that each thread reads ahead of the one whose contents are added.
AHEAD = 4


class ProbeLock(Strict):
    """The lock of a data set. It does not depend on the machine.

    files, size: number of files and of bytes that the examples use. listing: SHA-256 of their names and sizes; content:
    SHA-256 of their names and contents. train, test: number of examples. commit: of the hub's repository.
    """

    source: str
    commit: str | None
    files: int
    size: int
    listing: str
    content: str
    train: int
    test: int


def lock_path(data: ProbeData) -> Path:
    """The path of the lock; probes that read the same data share it."""
    what = data.repo or data.url or "folder"
    name = re.sub(r"[^\w.-]+", "--", what.partition("://")[2] or what)
    splits = short_hash([data.layout, data.revision, data.train, data.test, data.roots, data.test_roots], 6)
    return data_home() / "locks" / "probes" / f"{data.layout}.{name}.{splits}.json"


def lock_data(
    protocol: Protocol, pin: str, folder: Path | None = None, offline: bool = False,
    progress: Progress = unheard,
) -> ProbeLock:  # fmt: skip
    """Makes sure that a probe's data are present and match their lock, which the first call writes.

    Args:
        folder: use the data in this folder; they are not copied.
        offline: fetch nothing, and compare every file with the lock.

    Raises:
        UserError: the data can't be fetched, are incomplete, or differ from the lock. Fetched files are kept.
    """
    data = protocol.pin(pin)
    if data.source == "local":
        raise UserError(
            f"probe {protocol.name}: its data {pin!r} are made here, not locked; `mllm-eval probe` makes them"
        )
    path = lock_path(data)
    with FileLock(path.with_suffix(".lock")):
        before = read_as(path, ProbeLock)
        commit = before.commit if before else None
        if folder is not None:
            place = folder.expanduser().absolute()
            if not place.is_dir():
                raise UserError(f"{place}: no such folder")
        elif offline:
            place = _place(path, protocol, pin)
        else:
            place, commit = _fetched(protocol, pin, commit, progress)
        both = read_examples(data, place)
        files = UsedFiles(both, place)
        counted, size, listing = _listing(files)
        made = ProbeLock(
            source=data.repo or data.url or "folder",
            commit=commit,
            files=counted,
            size=size,
            listing=listing,
            content=_content(files, counted, progress),
            train=len(both[0]),
            test=len(both[1]),
        )
        if before is not None and before.content != made.content:
            raise UserError(
                f"{place}: {made.files:,} files of {made.size:,} bytes are not those of the lock {path} "
                f"({before.files:,} of {before.size:,}); bring the same, or delete the lock if the change is meant"
            )
        if offline and before is None:
            raise UserError(f"{path}: no lock yet; `mllm-eval data --probe {protocol.name}` makes it")
        note_places(path, LockPlaces(folders={ONLY: str(place)}, seen={}))
        write_json(path, made.model_dump(mode="json"))
    return made


def locked_place(protocol: Protocol, pin: str) -> Path:
    """The folder of locked data. Raises UserError if they are missing, or if names or sizes differ from the lock."""
    data = protocol.pin(pin)
    path = lock_path(data)
    lock = read_as(path, ProbeLock)
    if lock is None:
        raise UserError(f"probe {protocol.name}: its data {pin!r} are not here; {_mend(protocol, pin)}")
    place = _place(path, protocol, pin)
    if _listing(UsedFiles(read_examples(data, place), place))[2] != lock.listing:
        raise UserError(f"{place}: files are missing, added or of another size than in the lock {path}; "
                        f"{_mend(protocol, pin)}")  # fmt: skip
    return place


def _mend(protocol: Protocol, pin: str) -> str:
    brought = " --from FOLDER" if protocol.pin(pin).source == "folder" else ""
    return f"`mllm-eval data --probe {protocol.name} --data {pin}{brought}`"


def _place(path: Path, protocol: Protocol, pin: str) -> Path:
    known = places(path)
    noted_folder = Path(known.folders[ONLY]) if known is not None and ONLY in known.folders else None
    if noted_folder is None or not noted_folder.is_dir():
        raise UserError(f"probe {protocol.name}: its data {pin!r} are locked, but not on this machine; "
                        f"{_mend(protocol, pin)}")  # fmt: skip
    return noted_folder


def _fetched(protocol: Protocol, pin: str, commit: str | None, progress: Progress) -> tuple[Path, str | None]:
    data = protocol.pin(pin)
    if data.source == "folder":
        raise UserError(f"probe {protocol.name}: its data {pin!r} can't be fetched; bring them: {_mend(protocol, pin)}")
    if data.source == "hub":
        source = Source("dataset", str(data.repo), commit or data.revision, _mend(protocol, pin))
        folder, fetched_commit, _ = fetch_files(source, lambda names: _matching(data, names), progress)
        return folder, fetched_commit
    url = str(data.url)
    archive = data_home() / "hub" / url.rpartition("/")[2]
    fetch_url(Source("url", url, None, _mend(protocol, pin)), archive, data.sha256, progress)
    return _unpacked(archive), None


def _matching(data: ProbeData, names: Sequence[str]) -> list[str]:
    """The files that match the data set's globs. Raises UserError for a glob that matches none."""
    for pattern in data.patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UserError(f"{data.repo}: has no files {pattern}; correct `patterns` or `revision`")
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in data.patterns)]


def _unpacked(archive: Path) -> Path:
    """The folder that a zip file is unpacked to, completely or not at all. Raises UserError if it can't be unpacked."""
    target = archive.with_suffix("")
    if target.is_dir():
        return target
    making = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with zipfile.ZipFile(archive) as packed:
            _hold_members(archive, packed.infolist())
            packed.extractall(making)
        making.rename(target)
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError, ValueError, zlib.error) as error:
        raise UserError(f"{archive}: can't be unpacked ({error}); delete it and fetch it again") from None
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return target


def _hold_members(archive: Path, members: Sequence[zipfile.ZipInfo]) -> None:
    """Raises UserError if an archive has too many files or bytes, or a member that is a link or leaves the folder.

    `extractall` would rename such a member instead. It reads no more of a member than its listed size.
    """
    size, most = sum(one.file_size for one in members), UNPACKED
    if len(members) > MEMBERS or size > most:
        raise UserError(
            f"{archive}: {len(members):,} files of {size:,} bytes; at most {MEMBERS:,} of {most:,} are unpacked"
        )
    for one in members:
        try:
            within(Path(), one.filename.replace("\\", "/"))
        except ValueError as problem:
            raise UserError(f"{archive}: its member {problem}") from None
        if stat.S_ISLNK(one.external_attr >> 16):
            raise UserError(f"{archive}: its member {one.filename[:80]!r} is a link; pack the file itself")


class UsedFiles:
    """The names of the files that examples use, relative to their folder: sorted, each once.

    Where a layout has the pictures and the maps of each split in the order of their names, as images in folders of
    classes mostly are, only one name of each is held. Those of another order are sorted in memory at each iteration.
    """

    def __init__(self, both: Sequence[Examples], folder: Path) -> None:
        self.folder = folder
        self._above = f"{folder}/"
        self._streams = [(examples, part) for examples in both for part in (_picture, _map)]
        self._ordered = [self._in_order(*one) for one in self._streams]

    def __iter__(self) -> Iterator[str]:
        streams = [
            self._names(*one) if ordered else sorted(self._names(*one))
            for one, ordered in zip(self._streams, self._ordered, strict=True)
        ]
        # Rows of one parquet file come one after the other.
        return (name for name, _ in groupby(heapq.merge(*streams)))

    def _names(self, examples: Examples, part: Callable[[Example], str]) -> Iterator[str]:
        return (path.removeprefix(self._above) for path in map(part, examples) if path)

    def _in_order(self, examples: Examples, part: Callable[[Example], str]) -> bool:
        return all(one <= other for one, other in pairwise(self._names(examples, part)))


def _picture(example: Example) -> str:
    return example.picture.path


def _map(example: Example) -> str:
    return example.map_path


def _listing(files: UsedFiles) -> tuple[int, int, str]:
    """The number of files, their size in bytes, and the SHA-256 of their names and sizes."""
    digest, count, whole = hashlib.sha256(), 0, 0
    for name in files:
        size = (files.folder / name).stat().st_size
        digest.update(f"{name} {size}\n".encode())
        count, whole = count + 1, whole + size
    return count, whole, digest.hexdigest()


def _content(files: UsedFiles, count: int, progress: Progress) -> str:
    """The SHA-256 of the names and contents of `count` files; threads read a few of them ahead."""
    digest, coming = hashlib.sha256(), deque[tuple[str, Future[str]]]()
    names = iter(files)
    with ThreadPoolExecutor(decoders()) as pool:
        for done in range(1, count + 1):
            for name in islice(names, AHEAD * decoders() - len(coming)):
                coming.append((name, pool.submit(sha256_file, files.folder / name)))
            name, sha256 = coming.popleft()
            digest.update(f"{name} {sha256.result()}\n".encode())
            if done % 64 == 0 or done == count:
                progress(done, count)
    return digest.hexdigest()

"""Reads a benchmark's local snapshot into samples. Nothing here uses the network."""

from __future__ import annotations

import hashlib
import os
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from mllm_eval.catalog.benchmark import Benchmark, Pin, folder_of, module_of
from mllm_eval.catalog.variant import DEFAULT, VariantKey
from mllm_eval.config import short_hash
from mllm_eval.data.readers import Reading
from mllm_eval.data.samples import Kept, Pictures, Sample, Samples
from mllm_eval.data.settings import check_named, settings_of
from mllm_eval.data.snapshotlock import locked_snapshot
from mllm_eval.data.tables import DataRow, all_pictures_beside, files_of, rows_of
from mllm_eval.decoding import Decoding
from mllm_eval.errors import UserError, exception_words, near, origin
from mllm_eval.storage import sha256_bytes

Reader = Callable[[Mapping[str, Any], Mapping[str, Any]], Reading]
Files = Mapping[str, Sequence[Path]]
"""Table -> its files in order. A pin's own table is named `questions`."""


def load_samples(benchmark: Benchmark, pin: str, variant: VariantKey = DEFAULT) -> Samples:
    """Read the samples of a data pin (`mini`, `hub`, ...) for a variant, in the order of the data set.

    `blind` has no images; `shuffled` has another sample's images, the same in every run. Clusters are always those of
    the true images. For a pin of the hub only locked files are read, and they must match the lock.
    Raises UserError with file and row for missing files, columns with another name or type, rows that can't
    be read, and row counts or ids that differ from the pin's or the lock's.
    """
    chosen, name = benchmark.variant(variant), benchmark.pin_name(pin, variant)
    asked, files = _here(benchmark, name)
    key = _key(benchmark, asked, files, chosen.settings)
    own = None if key is None else recent.find(key)
    if own is None:
        kept, rows = read_samples(benchmark, name, asked, files, chosen.settings)
        own = Samples(benchmark.name, kept, _clusters(kept), rows)
        if key is not None:
            recent.add(key, own)
    if chosen.images == "own":
        return own
    return own.showing(_shuffled(own.kept) if chosen.images == "other" else [()] * len(own))


def _here(benchmark: Benchmark, name: str) -> tuple[Pin, Files]:
    """A pin and its files. If the pin has a lock, the files are checked, and its rows and ids are used."""
    asked = benchmark.data[name]
    if asked.source == "hub":
        locked = locked_snapshot(benchmark, name)
        return asked.model_copy(update={"rows": locked.rows, "ids": locked.ids}), locked.files
    return asked, {table: files_of(part) for table, part in asked.tables().items()}


def first_sample(benchmark: Benchmark, pin: str, variant: VariantKey = DEFAULT) -> Sample:
    """Read only the first sample of a data pin, without its images. Raises UserError as `load_samples` does."""
    name = benchmark.pin_name(pin, variant)
    asked, files = _here(benchmark, name)
    read = reader_of(benchmark)
    settings = settings_of(benchmark, read, benchmark.variant(variant).settings)
    joined = {} if asked.join is None else {"image": None}
    for row in rows_of(asked, benchmark.aliases, files["questions"]):
        check_named(benchmark, read, settings, {**row.record, **row.images, **joined})
        reading = read_row(read, row, settings)
        if reading.asked:
            kept = _kept(0, row, replace(reading, images=()), {})
            return Sample(benchmark.name, kept.id, (), kept.prompt, kept.target, kept.group, kept.group, kept.record)
    raise _empty(asked, files)


def _empty(pin: Pin, files: Files) -> UserError:
    where = ", ".join(str(path) for path in files["questions"][:3])
    return UserError(f"{where}: no rows to ask in the data set ({pin.repo}); put its questions there")


class _Recent:
    """A cache of the samples that were read last: variants of a benchmark are loaded one after the other."""

    def __init__(self) -> None:
        self._kept: deque[tuple[object, Samples]] = deque(maxlen=2)

    def find(self, key: object) -> Samples | None:
        """Return the samples that were added under a key; None if they are not kept."""
        return next((samples for known, samples in self._kept if known == key), None)

    def add(self, key: object, samples: Samples) -> None:
        """Keep samples, in place of the oldest."""
        self._kept.appendleft((key, samples))

    def clear(self) -> None:
        """Empty the cache."""
        self._kept.clear()

    @contextmanager
    def keep_all(self) -> Iterator[None]:
        """Keep all samples that are read in the `with` block until its end, so that none is read twice."""
        few, self._kept = self._kept, deque(self._kept)
        try:
            yield
        finally:
            self._kept = deque(list(self._kept)[: few.maxlen], maxlen=few.maxlen)


recent = _Recent()


def _key(benchmark: Benchmark, pin: Pin, files: Files, changed: Mapping[str, Any]) -> object:
    """Everything that affects the result of `read_samples`; None where an image file or a csv is missing or broken."""
    try:
        beside = all_pictures_beside(pin, benchmark.aliases, files)
        # A hash, as there are as many image files as questions.
        pictures = short_hash([_state(path) for path in beside])
    except (OSError, UserError):
        # `read_samples` says what is wrong.
        return None
    states = [_state(path) for paths in files.values() for path in paths]
    said = (benchmark.reader, benchmark.aliases, benchmark.settings, benchmark.background)
    return folder_of(benchmark), said, changed, pin, states, pictures


def _state(path: str | Path) -> tuple[str, int, int, int, int]:
    status = os.stat(path)
    return str(path), status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def read_samples(
    benchmark: Benchmark,
    name: str,
    pin: Pin,
    files: Files,
    changed: Mapping[str, Any] | None = None,
    told: Callable[[int], None] = lambda _: None,
) -> tuple[list[Kept], int]:
    """Read the samples in the files of a pin's tables, and check them against the pin. Also returns the row count.

    changed: settings that override the benchmark's. told: called with the number of rows read so far. Raises UserError
    as `load_samples` does.
    """
    read = reader_of(benchmark)
    settings = settings_of(benchmark, read, changed)
    samples: list[Kept] = []
    seen: dict[str, int] = {}
    rows = 0
    for number, row in enumerate(_joined(pin, benchmark, files)):
        told(rows := number + 1)
        if not number:
            check_named(benchmark, read, settings, {**row.record, **row.images})
        reading = read_row(read, row, settings)
        if reading.asked:
            samples.append(_kept(number, row, reading, seen))
    if not samples:
        raise _empty(pin, files)
    if pin.rows is not None and rows != pin.rows:
        raise UserError(
            f"{benchmark.name}: {pin.repo} has {rows} rows, its pin '{name}' says {pin.rows}: another release, "
            f"or files are missing or too many. Correct `revision` or `rows` in {folder_of(benchmark)}/benchmark.yaml."
        )
    _check_ids(benchmark, name, pin, samples)
    return samples, rows


def ids_hash(ids: Iterable[str]) -> str:
    """Hash that identifies a pin's samples: SHA-256 of the ids in order, joined by newlines, as 64 hex digits."""
    digest, between = hashlib.sha256(), ""
    for one in ids:
        digest.update(f"{between}{one}".encode())
        between = "\n"
    return digest.hexdigest()


def reader_of(benchmark: Benchmark) -> Reader:
    """The function that reads this benchmark's rows. Raises UserError if it can't be imported."""
    module, _, function = benchmark.reader.partition(":")
    reader = getattr(module_of(benchmark, module), function, None)
    if reader is None:
        raise UserError(f"benchmark {benchmark.name}: no function '{function}' in '{module}' (its `reader`)")
    return cast(Reader, reader)


def read_row(read: Reader, row: DataRow, settings: Mapping[str, Any]) -> Reading:
    """Apply a reader to a row. The reader's exceptions become a UserError that names the row."""
    marks = {column: ["image"] * len(refs) or None for column, refs in row.images.items()}
    code = getattr(read, "__code__", None)
    folder = Path(code.co_filename).parent if code else Path()
    try:
        # A csv column that names the image keeps its text, because the record comes last.
        reading = read({**marks, **row.record}, settings)
    except UserError as error:
        raise UserError(f"{row.where}: {error}") from None
    except KeyError as error:
        raise UserError(f"{row.where}: field {error} is missing") from None
    except Exception as error:
        place = origin(error, folder).removesuffix(": ")
        raise UserError(f"{row.where}: can't be read ({exception_words(error)}{place and f' at {place}'})") from None
    if not isinstance(reading, Reading):
        raise UserError(f"{row.where}: its reader gives {type(reading).__name__}, expected a Reading")
    return reading


def _joined(pin: Pin, benchmark: Benchmark, files: Files) -> Iterator[DataRow]:
    aliases, how = benchmark.aliases, Decoding(background=benchmark.background)
    rows = rows_of(pin, aliases, files["questions"], how)
    if pin.join is None:
        yield from rows
        return
    join, pictures = pin.join, {}
    for other in rows_of(pin.extra[join.table], aliases, files[join.table], how):
        pictures[other.record[join.key]] = other.images[join.image]
    for row in rows:
        key = row.record[join.column]
        if key not in pictures:
            raise UserError(f"{row.where}: image {key!r} is not in the table '{join.table}'")
        row.images["image"] = pictures[key]
        yield row


def _kept(number: int, row: DataRow, reading: Reading, seen: dict[str, int]) -> Kept:
    plain = str(number) if reading.id is None else reading.id
    seen[plain] = seen.get(plain, 0) + 1
    unique = plain if seen[plain] == 1 else f"{plain}#{seen[plain]}"
    for column, position in reading.images:
        if column not in row.images:
            raise UserError(f"{row.where}: its reader names the image column '{column}'.{near(column, row.images)} "
                            f"Images are in: {', '.join(row.images) or 'no column'}")  # fmt: skip
        if position >= len(row.images[column]):
            raise UserError(f"{row.where}: its reader names image {position} of column '{column}', which has "
                            f"{len(row.images[column])}")  # fmt: skip
    pictures = tuple(row.images[column][position] for column, position in reading.images)
    group = unique if reading.group is None else reading.group
    return Kept(number, unique, pictures, reading.prompt, reading.target, group, row.record)


def _check_ids(benchmark: Benchmark, pin: str, asked: Pin, samples: Sequence[Kept]) -> None:
    digest = ids_hash(sample.id for sample in samples)
    if asked.ids is not None and digest != asked.ids:
        raise UserError(
            f"{benchmark.name}: the ids of {asked.repo} differ from those of its pin '{pin}' (hash {digest[:12]}, not "
            f"{asked.ids[:12]}): another release? Correct `revision` or `ids` in {folder_of(benchmark)}/benchmark.yaml."
        )


def _clusters(samples: Sequence[Kept]) -> list[str]:
    """Cluster of each sample: samples that share an image or a group, directly or through other samples."""
    parent = array("l")
    groups: dict[str, int] = {}
    images: dict[bytes, int] = {}

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = node = parent[parent[node]]
        return node

    def new() -> int:
        parent.append(len(parent))
        return len(parent) - 1

    for sample in samples:
        group = groups[sample.group] if sample.group in groups else groups.setdefault(sample.group, new())
        for picture in sample.pictures:
            key = bytes.fromhex(picture.sha256)
            image = images[key] if key in images else images.setdefault(key, new())
            parent[root(image)] = root(group)
    names: dict[int, str] = {}
    own = (sample.pictures[0].sha256[:16] if sample.pictures else sample.group for sample in samples)
    return [names.setdefault(root(groups[sample.group]), name) for sample, name in zip(samples, own, strict=True)]


def _shuffled(samples: Sequence[Kept]) -> list[Pictures]:
    """For each sample other images: each image is replaced by its successor in a fixed pseudo-random order."""
    pictures = {picture.sha256: picture for sample in samples for picture in sample.pictures}
    order = sorted(pictures, key=lambda sha: sha256_bytes(f"shuffled {sha}".encode()))
    following = dict(zip(order, [*order[1:], *order[:1]], strict=True))
    return [tuple(pictures[following[picture.sha256]] for picture in sample.pictures) for sample in samples]

"""A benchmark's local snapshot as samples. Nothing here touches the network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from mllm_eval.catalog.benchmark import Benchmark, Pin, folder_of, module_of
from mllm_eval.data.locks import locked_snapshot
from mllm_eval.data.readers import Reading
from mllm_eval.data.samples import ImageRef, Sample
from mllm_eval.data.tables import Row, files_of, rows_of
from mllm_eval.errors import UserError
from mllm_eval.storage import sha256_bytes

Reader = Callable[[Mapping[str, Any], Mapping[str, Any]], Reading]
Files = Mapping[str, Sequence[Path]]
"""Table -> its files in order; a pin's own table is `questions`."""


def load_samples(benchmark: Benchmark, pin: str, variant: str = "default") -> list[Sample]:
    """The samples of a data pin (`mini`, `hub`, ...) as a variant asks them, in the data set's order.

    `blind` has no images; `shuffled` has another sample's, the same in every run; clusters stay those of the
    true images. Of a pin of the hub only locked files are read, and they must still be those of the lock.
    Raises UserError, naming file and row, for missing files, columns of another name or type, rows that can't
    be read, and row counts or ids that differ from the pin's or the lock's.
    """
    chosen, name = benchmark.variant(variant), benchmark.pin_name(pin, variant)
    asked = benchmark.data[name]
    if asked.source == "hub":
        locked = locked_snapshot(benchmark, name)
        asked = asked.model_copy(update={"rows": locked.rows, "ids": locked.ids})
        files = locked.files
    else:
        files = {table: files_of(part) for table, part in asked.tables().items()}
    samples = _clustered(read_samples(benchmark, name, asked, files, chosen.settings)[0])
    if chosen.images == "none":
        return [_with_images(sample, ()) for sample in samples]
    return _shuffled(samples) if chosen.images == "other" else samples


def read_samples(
    benchmark: Benchmark,
    name: str,
    pin: Pin,
    files: Files,
    changed: Mapping[str, Any] | None = None,
    told: Callable[[int], None] = lambda _: None,
) -> tuple[list[Sample], int]:
    """The samples in these files of a pin's tables, checked against the pin, and the number of rows read.

    `changed` settings are laid over the benchmark's; `told` hears of rows as they are read.
    """
    read = reader_of(benchmark)
    settings = {**benchmark.settings, **(changed or {})}
    rows = _joined(pin, benchmark.aliases, files, told)
    if pin.rows is not None and len(rows) != pin.rows:
        raise UserError(
            f"{benchmark.name}: {pin.repo} has {len(rows)} rows, its pin '{name}' says {pin.rows}: another release, "
            f"or files are missing or too many. Correct `revision` or `rows` in {folder_of(benchmark)}/benchmark.yaml."
        )
    samples: list[Sample] = []
    seen: dict[str, int] = {}
    for number, row in enumerate(rows):
        reading = read_row(read, row, settings)
        if reading.asked:
            samples.append(_sample(benchmark.name, number, row, reading, seen))
    _check_ids(benchmark, name, pin, samples)
    return samples, len(rows)


def ids_hash(ids: list[str]) -> str:
    """The hash by which a pin knows its samples: sha256 of the ids in order, joined by newlines."""
    return sha256_bytes("\n".join(ids).encode())


def reader_of(benchmark: Benchmark) -> Reader:
    """The function that reads this benchmark's rows."""
    module, _, function = benchmark.reader.partition(":")
    found = getattr(module_of(benchmark, module), function, None)
    if found is None:
        raise UserError(f"benchmark {benchmark.name}: no function '{function}' in '{module}' (its `reader`)")
    return cast(Reader, found)


def read_row(read: Reader, row: Row, settings: Mapping[str, Any]) -> Reading:
    """What a reader makes of a row, with the reader's errors as UserError naming the row."""
    marks = {column: ["image"] * len(refs) or None for column, refs in row.images.items()}
    try:
        return read({**row.record, **marks}, settings)
    except KeyError as error:
        raise UserError(f"{row.where}: field {error} is missing") from None
    except (TypeError, ValueError, AttributeError, IndexError, SyntaxError) as error:
        raise UserError(f"{row.where}: can't be read ({type(error).__name__}: {error})") from None


def _joined(pin: Pin, aliases: Mapping[str, str], files: Files, told: Callable[[int], None]) -> list[Row]:
    rows: list[Row] = []
    for row in rows_of(pin, aliases, files["questions"]):
        rows.append(row)
        told(len(rows))
    if pin.join is None:
        return rows
    join, pictures = pin.join, {}
    for other in rows_of(pin.extra[join.table], aliases, files[join.table]):
        pictures[other.record[join.key]] = other.images[join.image]
    for row in rows:
        key = row.record[join.column]
        if key not in pictures:
            raise UserError(f"{row.where}: image {key!r} is not in the table '{join.table}'")
        row.images["image"] = pictures[key]
    return rows


def _sample(name: str, number: int, row: Row, reading: Reading, seen: dict[str, int]) -> Sample:
    plain = str(number) if reading.id is None else reading.id
    seen[plain] = seen.get(plain, 0) + 1
    unique = plain if seen[plain] == 1 else f"{plain}#{seen[plain]}"
    images = tuple(row.images[column][position] for column, position in reading.images)
    group = unique if reading.group is None else reading.group
    return Sample(name, unique, images, reading.prompt, reading.target, group, unique, row.record)


def _check_ids(benchmark: Benchmark, pin: str, asked: Pin, samples: list[Sample]) -> None:
    found = ids_hash([sample.id for sample in samples])
    if asked.ids is not None and found != asked.ids:
        raise UserError(
            f"{benchmark.name}: the ids of {asked.repo} differ from those of its pin '{pin}' (hash {found[:12]}, not "
            f"{asked.ids[:12]}): another release? Correct `revision` or `ids` in {folder_of(benchmark)}/benchmark.yaml."
        )


def _clustered(samples: list[Sample]) -> list[Sample]:
    # Samples that share an image or a group are not independent; neither are those linked through a third.
    parent: dict[str, str] = {}

    def root(key: str) -> str:
        while parent.setdefault(key, key) != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    for sample in samples:
        for image in sample.images:
            parent[root(f"image {image.sha256}")] = root(f"group {sample.group}")
    names: dict[str, str] = {}
    clustered = []
    for sample in samples:
        top = root(f"group {sample.group}")
        name = names.setdefault(top, sample.images[0].sha256[:16] if sample.images else sample.group)
        clustered.append(_replace(sample, sample.images, name))
    return clustered


def _shuffled(samples: list[Sample]) -> list[Sample]:
    images = {image.sha256: image for sample in samples for image in sample.images}
    order = sorted(images, key=lambda sha: sha256_bytes(f"shuffled {sha}".encode()))
    other = {sha: images[order[(i + 1) % len(order)]] for i, sha in enumerate(order)}
    return [_with_images(s, tuple(other[image.sha256] for image in s.images)) for s in samples]


def _with_images(sample: Sample, images: tuple[ImageRef, ...]) -> Sample:
    return _replace(sample, images, sample.cluster)


def _replace(sample: Sample, images: tuple[ImageRef, ...], cluster: str) -> Sample:
    fixed = (sample.prompt, sample.target, sample.group, cluster, sample.record)
    return Sample(sample.benchmark, sample.id, images, *fixed)

"""Fetch the benchmarks' data sets from the hub or take them from a folder, check them, and lock their checksums."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from mllm_eval.catalog import Benchmark
from mllm_eval.catalog.variant import DEFAULT, VariantKey
from mllm_eval.data import lockmaking
from mllm_eval.data.snapshotlock import lock_path, locked_snapshot, read_lock, rows_of
from mllm_eval.hub.lock import Lock, Rows
from mllm_eval.pipeline.reporter import Reporter, Silent


def lock_data(
    benchmarks: Sequence[Benchmark],
    pin: str,
    folder: Path | None = None,
    offline: bool = False,
    reporter: Reporter | None = None,
) -> bool:
    """Provide a pin of these benchmarks: fetch, check and lock its files. Return True if anything had to be done.

    Args:
        folder: use the files in this folder, without copying them, instead of fetching from the hub.
        offline: fetch nothing; compare every file's content with its lock.

    Raises:
        UserError: for the first benchmark whose data can't be provided. The benchmarks before it are locked, and
            fetched files are kept.
    """
    listener = reporter or Silent()
    changed = False
    for benchmark in benchmarks:
        name = benchmark.pin_name(pin)
        if offline and folder is None:
            with listener.step(f"compare: {benchmark.name}"):
                locked_snapshot(benchmark, name, whole=True)
        elif folder is not None or not lockmaking.is_whole(benchmark, name):
            if folder is not None:
                with listener.step(f"look: {benchmark.name}"):
                    files = lockmaking.adopted(benchmark, name, folder)
            else:
                with listener.step(f"fetch: {benchmark.name} (MB)") as progress:
                    files = lockmaking.fetched(benchmark, name, progress)
            with listener.step(f"check: {benchmark.name} (rows)") as progress:
                lockmaking.lock(benchmark, name, files, progress)
            changed = True
        if (lock := read_lock(benchmark, name)) is not None:
            listener.say(_sentence(lock, rows_of(lock, lock_path(benchmark.name, name))))
    return changed


def of_the_hub(benchmarks: Iterable[Benchmark], pin: str) -> list[Benchmark]:
    """Return the benchmarks whose pin is a data set on the hub."""
    return [benchmark for benchmark in benchmarks if benchmark.pin(pin).source == "hub"]


def _sentence(lock: Lock, rows: Rows) -> str:
    made_of = {f"{table.repo}@{(table.commit or 'unknown commit')[:14]}" for table in lock.parts.values()}
    files = sum(len(table.files) for table in lock.parts.values())
    asked = "" if rows.samples == rows.rows else f", {rows.samples:,} asked"
    trusted = f"; trusted on first use: {', '.join(rows.trusted)}" if rows.trusted else ""
    size = f"{lock.size / 1e6:,.1f} MB in {files} file{'s' if files > 1 else ''}"
    return f"{rows.benchmark}: {rows.rows:,} rows{asked}, {size}, {' + '.join(sorted(made_of))}{trusted}"


def locked_or_told(benchmarks: Iterable[Benchmark], pin: str, variants: Sequence[VariantKey] = (DEFAULT,)) -> None:
    """Raise UserError, which names the command to run, unless every hub data set to be read is here and locked."""
    for benchmark in benchmarks:
        for name in {benchmark.pin_name(pin, variant) for variant in variants}:
            if benchmark.data[name].source == "hub":
                locked_snapshot(benchmark, name)

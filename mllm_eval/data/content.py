"""Hashes the content of samples, and detects changes in the files that they are read from."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from mllm_eval.catalog.benchmark import Benchmark, folder_of, module_of
from mllm_eval.config import short_hash
from mllm_eval.data.samples import Sample
from mllm_eval.data.snapshotlock import locked_snapshot
from mllm_eval.data.tables import all_pictures_beside, files_of
from mllm_eval.storage import PACKAGE

# Nanoseconds. A file changed more recently might change again without a new time, because file systems' clocks are
# coarse.
SETTLED = 2 * 10**9


def content_of(sample: Sample) -> str:
    """16 hex digits over the fields of a sample that affect scores and statistics: record, gold, group, cluster."""
    parts = [sample.id, sample.target, sample.group, sample.cluster, sample.record]
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=repr)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def contents_hash(contents: Iterable[str]) -> str:
    """12 hex digits over the `content_of` of samples, in order."""
    digest = hashlib.sha256()
    for one in contents:
        digest.update(one.encode())
    return digest.hexdigest()[:12]


def state_of(benchmark: Benchmark, pin: str) -> str | None:
    """12 hex digits that change whenever the samples of a data pin might change; None if a file is new or missing.

    The state covers names, sizes and times of data and code files, not their content. Equal states mean equal samples;
    a new state only means that the samples must be read again.

    Raises:
        UserError: the files are missing or differ from their lock, or a csv can't be read.
    """
    asked = benchmark.data[pin]
    if asked.source == "hub":
        locked = locked_snapshot(benchmark, pin)
        held: tuple[object, ...] = (locked.rows, locked.ids)
        files = locked.files
    else:
        held = ()
        files = {table: files_of(part) for table, part in asked.tables().items()}
    paths = [str(path) for own in files.values() for path in own]
    paths += all_pictures_beside(asked, benchmark.aliases, files)
    now, states = time.time_ns(), []
    for path in paths:
        try:
            status = os.stat(path)
        except OSError:
            return None
        if now - status.st_ctime_ns < SETTLED:
            return None
        states.append((path, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns))
    return short_hash([benchmark, pin, held, _code(benchmark), states])


def _code(benchmark: Benchmark) -> list[tuple[str, int, int]]:
    """Name, size and time of all code files that read samples: the benchmark's own, and this package's."""
    own = sorted(folder_of(benchmark).glob("*.py"))
    reader = module_of(benchmark, benchmark.reader.partition(":")[0]).__file__
    return [*_states([*own, Path(str(reader))]), *_package()]


@lru_cache(maxsize=1)
def _package() -> list[tuple[str, int, int]]:
    return _states(sorted(PACKAGE.rglob("*.py")))


def _states(paths: Iterable[Path]) -> list[tuple[str, int, int]]:
    return [(str(path), (stat := path.stat()).st_size, stat.st_mtime_ns) for path in paths]

"""Bound the disk space of all feature stores, and make room by removing the least recently used shards."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from mllm_eval.environment import parse_bytes
from mllm_eval.features.storeshards import SUFFIX, index_of, remove, unheld
from mllm_eval.locks import FileLock
from mllm_eval.storage import results_home

VARIABLE = "MLLM_EVAL_FEATURES_BYTES"


def features_root() -> Path:
    """Return the folder of all encoders' stores: results/features."""
    return results_home() / "features"


def root_lock(root: Path) -> FileLock:
    """Return the lock for creating, enlarging or removing shards; it is never held during computing or reading."""
    return FileLock(root / ".lock")


class ShardFile(NamedTuple):
    """A shard on disk. size: bytes, index included. used: time of last reading or writing, seconds since 1970."""

    path: Path
    size: int
    used: float


def shard_files(root: Path) -> Iterator[ShardFile]:
    """Yield all shards of all stores."""
    for path in root.glob(f"*/*{SUFFIX}"):
        try:
            status = path.stat()
            yield ShardFile(path, status.st_size + index_of(path).stat().st_size, status.st_mtime)
        except OSError:
            continue


def taken(root: Path) -> int:
    """Return the bytes that all stores take."""
    return sum(shard.size for shard in shard_files(root))


def free(root: Path) -> int:
    """Return the free bytes of the disk on which the stores are, or will be."""
    folder = next(path for path in (root, *root.parents) if path.exists())
    return shutil.disk_usage(folder).free


def bound(root: Path, used: int | None = None) -> int:
    """Return the most bytes that all stores together may take.

    This is $MLLM_EVAL_FEATURES_BYTES, else half of the space that would be free without the stores.
    """
    if given := os.environ.get(VARIABLE):
        return parse_bytes(given, VARIABLE)
    return (free(root) + (taken(root) if used is None else used)) // 2


def available(root: Path) -> int:
    """Return the bytes that could be written after evicting all shards that no process holds."""
    used = fixed = 0
    with root_lock(root):
        for shard in shard_files(root):
            used += shard.size
            with unheld(shard.path) as nobodys:
                fixed += 0 if nobodys else shard.size
    return max(0, min(bound(root, used) - fixed, free(root) + used - fixed))


def make_room(root: Path, needed: int) -> bool:
    """Evict shards until `needed` more bytes fit within the bound.

    Shards that a process holds are kept. Returns False, without evicting any, if the bytes cannot fit. The caller must
    hold the root's lock.
    """
    shards = sorted(shard_files(root), key=lambda shard: (shard.used, shard.path))
    used = sum(shard.size for shard in shards)
    excess = max(used + needed - bound(root, used), needed - free(root))
    with ExitStack() as locks:
        gone = []
        for shard in shards:
            if excess > 0 and locks.enter_context(unheld(shard.path)):
                gone.append(shard.path)
                excess -= shard.size
        if excess > 0:
            return False
        for path in gone:
            remove(path)
    return True

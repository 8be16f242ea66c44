"""How much of the disk features may take, and making room: the shards used longest ago go first."""

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
    """Where the stores of all encoders are: results/features."""
    return results_home() / "features"


def root_lock(root: Path) -> FileLock:
    """Held while shards are made, reserved or removed; never while anything is computed or read."""
    return FileLock(root / ".lock")


class ShardFile(NamedTuple):
    """A shard on disk, its bytes with its index; `used`: when a command last read or wrote it, seconds since 1970."""

    path: Path
    size: int
    used: float


def shard_files(root: Path) -> Iterator[ShardFile]:
    """All shards of all stores."""
    for path in root.glob(f"*/*{SUFFIX}"):
        try:
            status = path.stat()
            yield ShardFile(path, status.st_size + index_of(path).stat().st_size, status.st_mtime)
        except OSError:
            continue


def taken(root: Path) -> int:
    """Bytes that all stores take."""
    return sum(shard.size for shard in shard_files(root))


def free(root: Path) -> int:
    """Bytes free on the disk that the stores are on, or will be on."""
    folder = next(path for path in (root, *root.parents) if path.exists())
    return shutil.disk_usage(folder).free


def bound(root: Path, used: int | None = None) -> int:
    """Bytes that the stores may take: $MLLM_EVAL_FEATURES_BYTES, else half of what is free without them."""
    if given := os.environ.get(VARIABLE):
        return parse_bytes(given, VARIABLE)
    return (free(root) + (taken(root) if used is None else used)) // 2


def available(root: Path) -> int:
    """Bytes that could be written now, if all that no process holds were evicted."""
    used = fixed = 0
    with root_lock(root):
        for shard in shard_files(root):
            used += shard.size
            with unheld(shard.path) as nobodys:
                fixed += 0 if nobodys else shard.size
    return max(0, min(bound(root, used) - fixed, free(root) + used - fixed))


def make_room(root: Path, needed: int) -> bool:
    """Evict until so many bytes more keep within the bound; False, and nothing is gone, where that is impossible.

    Shards that processes hold stay. The caller has the root's lock.
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

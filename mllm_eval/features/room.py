"""How much of the disk features may take, and making room: the shards used longest ago go first."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from mllm_eval.errors import UserError
from mllm_eval.features.leases import held
from mllm_eval.features.shards import remove, rows_file
from mllm_eval.storage import FileLock, results_home

# A shard takes no more rows beyond this: what is evicted at once, and what bounds the number of files.
SHARD_BYTES = 256 * 2**20
VARIABLE = "MLLM_EVAL_FEATURES_BYTES"
UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def features_root() -> Path:
    """Where the stores of all encoders are: results/features."""
    return results_home() / "features"


def root_lock(root: Path) -> FileLock:
    """Held while leases are made and files are reserved or removed; never while anything is computed."""
    return FileLock(root / ".lock")


@dataclass(frozen=True)
class ShardFile:
    """A shard on disk. `used`: when a command last read or wrote it, seconds since 1970."""

    index: Path
    size: int
    used: float

    @property
    def name(self) -> str:
        """`<store>/<shard>`."""
        return f"{self.index.parent.name}/{self.index.stem}"


def shard_files(root: Path) -> Iterator[ShardFile]:
    """All shards of all stores; `size` counts rows and index."""
    for index in root.glob("*/*.index"):
        try:
            status = index.stat()
            yield ShardFile(index, status.st_size + rows_file(index).stat().st_size, status.st_mtime)
        except OSError:
            continue


def taken(root: Path) -> int:
    """Bytes that all stores take."""
    return sum(shard.size for shard in shard_files(root))


def parse_bytes(text: str, variable: str = VARIABLE) -> int:
    """Bytes of `200GB`, `1.5T`, `500e9` or `0`; units are powers of 1000. Raises UserError for another form."""
    match = re.fullmatch(r"(\d+(?:\.\d*)?(?:e\d+)?)\s*([KMGT]?)B?", text.strip(), re.IGNORECASE)
    if match is None:
        rest = ", or 0 to keep no features" if variable == VARIABLE else ""
        raise UserError(f"{variable}={text!r}: write a size such as 200GB or 1.5TB{rest}")
    return int(float(match.group(1)) * UNITS[match.group(2).upper()])


def free(root: Path) -> int:
    """Bytes free on the disk that the stores are on, or will be on."""
    folder = next(path for path in (root, *root.parents) if path.exists())
    return shutil.disk_usage(folder).free


def bound(root: Path, used: int | None = None) -> int:
    """Bytes that the stores may take: $MLLM_EVAL_FEATURES_BYTES, else half of what is free without them."""
    if given := os.environ.get(VARIABLE):
        return parse_bytes(given)
    return (free(root) + (taken(root) if used is None else used)) // 2


def available(root: Path) -> int:
    """Bytes that could be written now, if all that no process holds were evicted."""
    with root_lock(root):
        shards = list(shard_files(root))
        holding = held(root)
    used = sum(shard.size for shard in shards)
    fixed = sum(shard.size for shard in shards if shard.name in holding)
    return max(0, min(bound(root, used) - fixed, free(root) + used - fixed))


def make_room(root: Path, needed: int, keep: Collection[str] = ()) -> bool:
    """Evict until so many bytes more keep within the bound; False, and nothing is gone, where that is impossible.

    Shards that processes hold stay, and those of `keep`. The caller has the root's lock.
    """
    shards = sorted(shard_files(root), key=lambda shard: (shard.used, shard.name))
    used = sum(shard.size for shard in shards)
    excess = max(used + needed - bound(root, used), needed - free(root))
    if excess <= 0:
        return True
    holding = held(root) | set(keep)
    gone = []
    for shard in shards:
        if excess > 0 and shard.name not in holding:
            gone.append(shard)
            excess -= shard.size
    if excess > 0:
        return False
    for shard in gone:
        remove(shard.index)
    return True

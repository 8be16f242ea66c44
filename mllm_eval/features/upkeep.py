"""Checking stores row by row, and removing what nobody will read."""

from __future__ import annotations

import os
import shutil
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mllm_eval.features.inventory import Store, read_stores
from mllm_eval.features.leases import held
from mllm_eval.features.room import SHARD_BYTES, root_lock
from mllm_eval.features.shards import (
    ENTRY,
    HEADER,
    NotAShard,
    RowReader,
    ShardWriter,
    drop_entry,
    read_entries,
    read_row_bytes,
    remove,
    rows_file,
)

Kind = Literal["cut off", "superseded", "orphaned", "scattered"]
# A file that is being written has a name of its own for so long at the most.
HOUR = 3600.0


@dataclass(frozen=True)
class Damage:
    """A row whose checksum was wrong, or (row -1) entries of an index that were; they are dropped."""

    store: str
    shard: str
    row: int
    image: str
    entries: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain data for `--json`."""
        return asdict(self)


def verify(store: Store, progress: Callable[[int], None] | None = None) -> Iterator[Damage]:
    """Read every row of a store; what is damaged is dropped, so that it is computed again when it is needed.

    `progress` gets the rows read. When a store was last used does not change.
    """
    reader = RowReader(store.row_bytes)
    row_bytes = np.empty(store.row_bytes, np.uint8)
    done = 0
    for index in sorted(store.folder.glob("*.index")):
        try:
            entries, good = read_entries(index, store.row_bytes)
            status = os.stat(index)
        except (OSError, NotAShard):
            yield Damage(store.name, index.stem, -1, "", entries=1)
            continue
        dropped = ~entries.view(np.uint8).reshape(-1, ENTRY.itemsize).any(1)
        if broken := int((~good & ~dropped).sum()):
            yield Damage(store.name, index.stem, -1, "", entries=broken)
        for row in np.flatnonzero(good).tolist():
            whole = reader.read(index, row, row_bytes.data)
            if not whole or zlib.crc32(row_bytes.data) != int(entries["checksum"][row]):
                drop_entry(index, row)
                os.utime(index, ns=(status.st_atime_ns, status.st_mtime_ns))
                yield Damage(store.name, index.stem, row, entries["image"][row].tobytes().hex())
            done += 1
            if progress:
                progress(done)


@dataclass(frozen=True)
class Waste:
    """Something that can go: `count` files, rows or images, `size` bytes.

    cut off: what a crash left behind, or an older form of the store. superseded: rows dropped or doubled.
    orphaned: a store whose encoder nobody has any more. scattered: small shards that become one; frees nothing.
    """

    kind: Kind
    store: str
    count: int
    size: int

    def to_dict(self) -> dict[str, Any]:
        """Plain data for `--json`."""
        return asdict(self)


def collect(root: Path, remove_them: bool, orphans: bool = True) -> Iterator[Waste]:
    """Find what can go, store by store, and remove it if asked to; shards that processes hold are left alone.

    `orphans`: whether stores whose encoder nobody has any more go, too.
    """
    for store in read_stores(root):
        if store.orphaned and orphans and not store.held:
            yield Waste("orphaned", store.name, store.images, store.size)
            if remove_them:
                _remove_store(root, store)
            continue
        for found in (_cut_off(root, store, remove_them), *_rewritten(root, store, remove_them)):
            if found.count:
                yield found


def _remove_store(root: Path, store: Store) -> None:
    with root_lock(root):
        if not any(name.startswith(f"{store.name}/") for name in held(root)):
            for index in store.folder.glob("*.index"):
                remove(index)
            shutil.rmtree(store.folder, ignore_errors=True)


def _cut_off(root: Path, store: Store, remove_them: bool) -> Waste:
    count = size = 0
    with root_lock(root):
        holding = held(root)
        for path in sorted(store.folder.iterdir()):
            if path.name == "meta.json" or f"{store.name}/{path.stem}" in holding:
                continue
            index = path.with_suffix(".index")
            young = path.name.startswith(".") and time.time() - path.stat().st_mtime < HOUR
            if young or (path.suffix == ".index" and rows_file(path).is_file() and _entries(path) >= 0):
                continue
            if path.suffix == ".rows" and index.is_file() and (entries := _entries(index)) >= 0:
                beyond = path.stat().st_size - entries * read_row_bytes(index)
                if beyond > 0:
                    count, size = count + 1, size + beyond
                    if remove_them:
                        os.truncate(path, path.stat().st_size - beyond)
                continue
            count, size = count + 1, size + path.stat().st_size
            if remove_them:
                path.unlink()
    return Waste("cut off", store.name, count, size)


def _entries(index: Path) -> int:
    """Entries of an index, -1 where it is none."""
    try:
        read_row_bytes(index)
    except (OSError, NotAShard):
        return -1
    return (index.stat().st_size - HEADER.size) // ENTRY.itemsize


@dataclass(frozen=True)
class _Shard:
    index: Path
    living: list[int]
    rows: int


def _rewritten(root: Path, store: Store, remove_them: bool) -> Iterator[Waste]:
    """Shards with rows that nobody finds, and shards much smaller than they may be, become new ones."""
    seen: set[bytes] = set()
    with root_lock(root):
        holding = held(root)
    indexes = sorted(store.folder.glob("*.index"))
    # Of two rows for an image, the one in a shard that stays is kept.
    indexes.sort(key=lambda index: f"{store.name}/{index.stem}" not in holding)
    shards = []
    for index in indexes:
        try:
            entries, good = read_entries(index, store.row_bytes)
        except (OSError, NotAShard):
            continue
        living = []
        for row in np.flatnonzero(good).tolist():
            image = entries["image"][row].tobytes()
            if image not in seen:
                seen.add(image)
                living.append(row)
        if f"{store.name}/{index.stem}" not in holding:
            shards.append(_Shard(index, living, len(entries)))
    dead = [shard for shard in shards if len(shard.living) < shard.rows]
    small = [shard for shard in shards if 2 * shard.rows * store.row_bytes < SHARD_BYTES and shard not in dead]
    lost = sum(shard.rows - len(shard.living) for shard in dead)
    yield Waste("superseded", store.name, lost, lost * (store.row_bytes + ENTRY.itemsize))
    again = dead + (small if len(small) + len(dead) > 1 else [])
    yield Waste("scattered", store.name, len(again) - len(dead), 0)
    if remove_them:
        for group in _groups(again, SHARD_BYTES // store.row_bytes + 1):
            _rewrite(root, store, group)


def _groups(shards: Sequence[_Shard], most: int) -> Iterator[list[_Shard]]:
    """Shards together, as long as they have no more living rows than a shard may have."""
    group: list[_Shard] = []
    for shard in shards:
        if group and sum(len(one.living) for one in group) + len(shard.living) > most:
            yield group
            group = []
        group.append(shard)
    if group:
        yield group


def _rewrite(root: Path, store: Store, group: Sequence[_Shard]) -> None:
    """One new shard of the living rows; the old ones go when it is on the disk."""
    reader = RowReader(store.row_bytes)
    with root_lock(root):
        holding = held(root)
        free = [shard for shard in group if f"{store.name}/{shard.index.stem}" not in holding]
        used = max((shard.index.stat().st_mtime_ns for shard in free if shard.index.is_file()), default=0)
        writer = ShardWriter(store.folder, store.row_bytes)
        for shard in free:
            if not shard.index.is_file():
                continue
            entries, good = read_entries(shard.index, store.row_bytes)
            rows = np.empty((32, store.row_bytes), np.uint8)
            for start in range(0, len(shard.living), len(rows)):
                part: list[str] = []
                for row in shard.living[start : start + len(rows)]:
                    into = rows[len(part)]
                    # A damaged row stays behind: its image is computed again.
                    if good[row] and reader.read(shard.index, row, into.data) and (
                        zlib.crc32(into.data) == int(entries["checksum"][row])
                    ):  # fmt: skip
                        part.append(entries["image"][row].tobytes().hex())
                if part:
                    writer.append(part, rows[: len(part)])
        writer.close()
        if writer.count:
            os.utime(writer.index, ns=(used, used))
        for shard in free:
            remove(shard.index)

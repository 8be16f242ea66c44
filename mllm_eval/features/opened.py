"""The shards that this process holds open and locked, so that no process removes them, and their memory maps."""

from __future__ import annotations

import os
import resource
from collections.abc import Set
from contextlib import suppress
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from mllm_eval.features import storeshards

# Bytes of returned rows after which files are mapped again, because pages that were read count as process memory.
MAPPED_BYTES = 2**28
# Most shards that a store holds open: half of the process's limit of open files.
OPEN = min(resource.getrlimit(resource.RLIMIT_NOFILE)[0] % 2**31, 2**16) // 2


class OpenShards:
    """Open shards by number. `form` describes their rows, `dtype` is the rows' torch dtype."""

    def __init__(self, form: storeshards.RowForm, dtype: torch.dtype) -> None:
        self.form, self.dtype = form, dtype
        self._held: dict[int, IO[bytes]] = {}
        self._maps: dict[int, Tensor] = {}
        self._given = 0

    @property
    def numbers(self) -> Set[int]:
        """The numbers of the shards that are held open."""
        return self._held.keys()

    def hold(self, number: int, shard: Path) -> bool:
        """Open and lock a shard, closing another if too many are open. Return False if it can't be opened."""
        while len(self._held) >= OPEN:
            self._held.pop(next(iter(self._held))).close()
        try:
            self._held[number] = storeshards.hold(shard)
        except OSError:
            return False
        with suppress(OSError):
            # Eviction uses the modification time as the time of last use.
            os.utime(shard)
        return True

    def forget(self, number: int) -> None:
        """Close a shard that was removed."""
        self._maps.pop(number, None)
        if number in self._held:
            self._held.pop(number).close()

    def prefetch(self, number: int, row: int) -> None:
        """Ask the kernel to read a row in advance, so that all rows of a batch are read together."""
        if (file := self._held.get(number)) is not None:
            start = storeshards.HEADER + row * self.form.row_bytes
            os.posix_fadvise(file.fileno(), start, self.form.row_bytes, os.POSIX_FADV_WILLNEED)

    def map(self, number: int, shard: Path, row: int) -> Tensor:
        """Return the memory-mapped rows [n, h * w + 1, D] of a shard, at least up to `row`."""
        row_bytes = self.form.row_bytes
        if self._given > MAPPED_BYTES:
            self._given = 0
            self._maps.clear()
        self._given += row_bytes
        if number not in self._maps or row >= len(self._maps[number]):
            rows = (os.stat(shard).st_size - storeshards.HEADER) // row_bytes
            whole = torch.from_file(
                str(shard), shared=False, size=storeshards.HEADER + rows * row_bytes, dtype=torch.uint8
            )
            self._maps[number] = whole[storeshards.HEADER :].view(self.dtype).view(rows, *self.form[1:])
        return self._maps[number]

    def close(self) -> None:
        """Close all shards."""
        self._maps.clear()
        while self._held:
            self._held.popitem()[1].close()


def let_go(opened: OpenShards | None, writers: list[storeshards.ShardWriter]) -> None:
    """Close all shards that are being written, and those open for reading, if given."""
    while writers:
        writers.pop().close()
    if opened is not None:
        opened.close()

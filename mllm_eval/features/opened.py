"""The shards of a store that this process holds open, so that nobody removes them, and has mapped."""

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

# Bytes of rows that are given before their files are mapped anew: pages that were read count as a process's memory.
MAPPED_BYTES = 2**28
# Shards that a store holds at a time: half of the files that a process may have open.
OPEN = min(resource.getrlimit(resource.RLIMIT_NOFILE)[0] % 2**31, 2**16) // 2


class OpenShards:
    """Shards by their numbers. `form` is that of their rows, `dtype` what a row's numbers are."""

    def __init__(self, form: storeshards.Form, dtype: torch.dtype) -> None:
        self.form, self.dtype = form, dtype
        self._held: dict[int, IO[bytes]] = {}
        self._maps: dict[int, Tensor] = {}
        self._given = 0

    @property
    def numbers(self) -> Set[int]:
        """The shards that are held."""
        return self._held.keys()

    def hold(self, number: int, shard: Path) -> bool:
        """Hold a shard, and let another go where too many are held; False where it can't be opened."""
        while len(self._held) >= OPEN:
            self._held.pop(next(iter(self._held))).close()
        try:
            self._held[number] = storeshards.hold(shard)
        except OSError:
            return False
        with suppress(OSError):
            # The time of the last use, which eviction goes by.
            os.utime(shard)
        return True

    def forget(self, number: int) -> None:
        """Let go of a shard that was removed."""
        self._maps.pop(number, None)
        if number in self._held:
            self._held.pop(number).close()

    def prefetch(self, number: int, row: int) -> None:
        """Let the system read a row from the disk, all of a batch at once."""
        if (file := self._held.get(number)) is not None:
            start = storeshards.HEADER + row * self.form.row_bytes
            os.posix_fadvise(file.fileno(), start, self.form.row_bytes, os.POSIX_FADV_WILLNEED)

    def map(self, number: int, shard: Path, row: int) -> Tensor:
        """The rows [n, h * w + 1, D] of a shard, mapped, `row` among them."""
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
        """Let go of all."""
        self._maps.clear()
        while self._held:
            self._held.popitem()[1].close()


def let_go(opened: OpenShards | None, writers: list[storeshards.ShardWriter]) -> None:
    """Close the files of shards that are read, if any, and of all that are written."""
    while writers:
        writers.pop().close()
    if opened is not None:
        opened.close()

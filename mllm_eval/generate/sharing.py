"""Which of several processes answers which batch: whoever is free takes the costliest that is left.

A counter that all processes add to says how many batches are taken. Nobody has to wait for anybody in between, and
a slow process holds the others up by no more than the batch it is at.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

Add = Callable[[str, int], int]
"""Add to the number of that name, 0 at first, and return the sum; one process at a time."""


class Share:
    """One process's part in work that several do. Made alike on all of them, and asked the same things in order."""

    def __init__(self, rank: int = 0, size: int = 1, add: Add | None = None) -> None:
        if size > 1 and add is None:
            raise ValueError(f"{size} processes need a counter that all of them add to")
        self.rank = rank
        self.size = size
        self._add = add
        self._rounds = 0

    @classmethod
    def of_group(cls) -> Share:
        """The share of this process in torch's process group, if there is one. All processes must call it."""
        import torch

        group: Any = torch.distributed
        if not group.is_initialized() or group.get_world_size() == 1:
            return cls()
        rank, size = group.get_rank(), group.get_world_size()
        host = os.environ.get("MASTER_ADDR", "127.0.0.1")
        # Port 0: the system chooses a free one, which the others are told.
        own = group.TCPStore(host, 0, is_master=True, wait_for_workers=False) if rank == 0 else None
        port: list[int | None] = [own.port if own else None]
        group.broadcast_object_list(port, src=0)
        store = own or group.TCPStore(host, int(port[0] or 0), is_master=False)
        return cls(rank, size, store.add)

    def take(self, work: Sequence[int]) -> Iterator[int]:
        """The numbers of the pieces of work that are this process's to do, as it comes to do them.

        Args:
            work: what each piece costs, in any unit, the same list on all processes. One process does all in order;
                of several each gets the costliest that no other has got. Over all of them every number comes once.
        """
        if self._add is None:
            yield from range(len(work))
            return
        self._rounds += 1
        name = f"taken/{self._rounds}"
        order = sorted(range(len(work)), key=lambda number: (-work[number], number))
        while (taken := self._add(name, 1)) <= len(order):
            yield order[taken - 1]

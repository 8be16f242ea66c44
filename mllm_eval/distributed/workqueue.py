"""The work queue of several processes: whoever is free takes the costliest piece of work that is left.

A counter that all processes add to says how many pieces are taken. Nobody has to wait for anybody in between, and
a slow process holds the others up by no more than what it has taken last.
"""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any, Protocol

# A process may be busy with its last batch for as long.
WAIT = timedelta(days=7)


class Board(Protocol):
    """What all processes see: numbers by name, 0 at first. torch's stores are boards."""

    def add(self, name: str, amount: int) -> int:
        """Add to a number and return the sum; one process at a time."""
        ...

    def wait(self, names: list[str], timeout: timedelta) -> None:
        """Return when all these numbers were added to."""
        ...


class Alone:
    """The board of one process."""

    def __init__(self) -> None:
        self._numbers: Counter[str] = Counter()

    def add(self, name: str, amount: int) -> int:
        """The sum."""
        self._numbers[name] += amount
        return self._numbers[name]

    def wait(self, names: list[str], timeout: timedelta) -> None:
        """Nobody is waited for."""


class Share:
    """One process's part in work that several do. Made alike on all of them, and asked the same things in order."""

    def __init__(self, rank: int = 0, size: int = 1, board: Board | None = None) -> None:
        if size > 1 and board is None:
            raise ValueError(f"{size} processes need a board that all of them see")
        self.rank = rank
        self.size = size
        self._board = board or Alone()
        self._asked = 0
        self._later: deque[tuple[str, Callable[[], None]]] = deque()

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
        share = cls(rank, size, own or group.TCPStore(host, port[0], is_master=False))
        # Rank 0 holds the board: it does not go before the others have found it, nor (`close`) while they look at it.
        group.barrier()
        return share

    def take(self, work: Sequence[int]) -> Iterator[int]:
        """The numbers of the pieces of work that are this process's to do, as it comes to do them.

        Args:
            work: what each piece costs, in any unit, the same list on all processes. One process does all in order;
                of several each gets the costliest that no other has got. Over all of them every number comes once.
        """
        if self.size == 1:
            yield from range(len(work))
            return
        name = self._name("taken")
        order = sorted(range(len(work)), key=lambda number: (-work[number], number))
        while (taken := self._board.add(name, 1)) <= len(order):
            yield order[taken - 1]

    def counter(self) -> Callable[[int], int]:
        """Adds an amount to a sum that all processes add to, and returns it."""
        name = self._name("sum")
        return lambda amount: self._board.add(name, amount)

    def first(self, do: Callable[[], None]) -> None:
        """Rank 0 does something before the others go on; an error of its own is no news to them: they go on."""
        name = self._name("first")
        if self.rank:
            self._board.wait([name], WAIT)
            return
        try:
            do()
        finally:
            self._board.add(name, 1)

    def last(self, do: Callable[[], None]) -> None:
        """Rank 0 does something once all processes have come as far as this; none waits for it before `end`."""
        name = self._name("last")
        if self._board.add(f"{name}/come", 1) == self.size:
            self._board.add(name, 1)
        if self.rank == 0:
            self._later.append((name, do))
            while self._later and self._board.add(f"{self._later[0][0]}/come", 0) == self.size:
                self._later.popleft()[1]()

    def end(self) -> None:
        """Rank 0 waits for the others and does what was left for `last`."""
        while self._later:
            name, do = self._later.popleft()
            self._board.wait([name], WAIT)
            do()

    def close(self) -> None:
        """Say that this process asks no more; rank 0 waits until all have said so, for it holds what they look at."""
        if self._board.add("closed/come", 1) == self.size:
            self._board.add("closed", 1)
        if self.rank == 0:
            self._board.wait(["closed"], WAIT)

    def _name(self, what: str) -> str:
        self._asked += 1
        return f"{what}/{self._asked}"

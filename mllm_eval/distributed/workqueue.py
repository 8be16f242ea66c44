"""A work queue for several processes: a free process takes the costliest remaining piece of work.

A counter that all processes increment says how many pieces are taken. No process waits for another in between, and a
slow process delays the others only by its last piece.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any, Protocol

from mllm_eval.distributed.board import shared_board

# Timeout of work in which the processes wait for the slowest one. A process may be busy with its last batch for long.
WAIT = timedelta(days=7)


class Board(Protocol):
    """Named counters that all processes share, 0 at first. torch's stores fulfil this protocol."""

    def add(self, name: str, amount: int) -> int:
        """Add to a counter atomically, and return the sum."""
        ...

    def wait(self, names: list[str], timeout: timedelta) -> None:
        """Return when all these counters exist. The store raises an error after the timeout."""
        ...


class Alone:
    """The board of a single process."""

    def __init__(self) -> None:
        self._numbers: Counter[str] = Counter()

    def add(self, name: str, amount: int) -> int:
        """Add to a counter and return the sum."""
        self._numbers[name] += amount
        return self._numbers[name]

    def wait(self, names: list[str], timeout: timedelta) -> None:
        """Return at once, because there are no other processes."""


class Share:
    """One process's part of shared work. All processes must construct it alike and call it in the same order."""

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
        """The share of this process in torch's process group, if there is one. All processes must call this."""
        import torch

        group: Any = torch.distributed
        if not group.is_initialized() or group.get_world_size() == 1:
            return cls()
        share = cls(group.get_rank(), group.get_world_size(), shared_board(group))
        # Rank 0 holds the board. It must wait here until the others are connected, and in `close` until they finish.
        group.barrier()
        return share

    def take(self, work: Sequence[int]) -> Iterator[int]:
        """Yield the indices of the pieces of work that this process gets, one at a time.

        Args:
            work: cost of each piece in any unit, the same list on all processes. A single process gets all pieces in
                order. With several, each gets the costliest piece that is not taken. Every index is yielded once
                overall.
        """
        if self.size == 1:
            yield from range(len(work))
            return
        name = self._name("taken")
        order = sorted(range(len(work)), key=lambda number: (-work[number], number))
        while (taken := self._board.add(name, 1)) <= len(order):
            yield order[taken - 1]

    def counter(self) -> Callable[[int], int]:
        """Return a function that adds to a sum over all processes, and returns the sum so far."""
        name = self._name("sum")
        return lambda amount: self._board.add(name, amount)

    def first(self, do: Callable[[], None]) -> None:
        """Run `do` on rank 0 before the others continue. If it fails, only rank 0 raises, and the others continue."""
        name = self._name("first")
        if self.rank:
            self._board.wait([name], WAIT)
            return
        try:
            do()
        finally:
            self._board.add(name, 1)

    def last(self, do: Callable[[], None]) -> None:
        """Run `do` on rank 0 after all processes have called this. Nobody waits before `end`."""
        name = self._name("last")
        if self._board.add(f"{name}/come", 1) == self.size:
            self._board.add(name, 1)
        if self.rank == 0:
            self._later.append((name, do))
            while self._later and self._board.add(f"{self._later[0][0]}/come", 0) == self.size:
                self._later.popleft()[1]()

    def end(self) -> None:
        """Rank 0 waits for the others, and runs what `last` has left."""
        while self._later:
            name, do = self._later.popleft()
            self._board.wait([name], WAIT)
            do()

    def close(self) -> None:
        """Declare this process finished. Rank 0 waits until all processes are, because it holds the board."""
        if self._board.add("closed/come", 1) == self.size:
            self._board.add("closed", 1)
        if self.rank == 0:
            self._board.wait(["closed"], WAIT)

    def _name(self, what: str) -> str:
        self._asked += 1
        return f"{what}/{self._asked}"

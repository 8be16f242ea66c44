"""Whether all processes of a group are there: each is heard of every few seconds, and all stop when one is not.

A launcher ends the others when one process ends badly. One that is stopped, cut off, or on a machine that is gone ends
in no way: the others would wait for it in a collective until its time is out, up to days. Beats are counted, not timed:
clocks that disagree do no harm.
"""

from __future__ import annotations

import atexit
import os
import socket
import sys
import threading
import time
from typing import Any

# Seconds between two beats, and without any until a process counts as lost.
EVERY = 5.0
LOST = 120.0


class Watch:
    """This process's beats, and its look at those of the others; a thread does both until `leave`."""

    def __init__(self, board: Any, rank: int, size: int, every: float | None = None, lost: float | None = None) -> None:
        """`board`: torch's store that all processes see, through a connection of its own."""
        self.board, self.rank, self.size = board, rank, size
        self.every, self.lost = EVERY if every is None else every, LOST if lost is None else lost
        self._left = threading.Event()
        self._process = os.getpid()
        self._heard = dict.fromkeys(range(size), (0, time.monotonic()))
        self.board.set(f"place/{rank}", f"{socket.gethostname()}, process {os.getpid()}")
        self._thread = threading.Thread(target=self._go_on, name="alive", daemon=True)
        self._thread.start()
        atexit.register(self.leave)

    def fail(self, reason: str) -> None:
        """Tell the others why this process ends; they stop with that."""
        if not self._left.is_set():
            self._left.set()
            try:
                # The first reason counts: the others' are its consequences.
                self.board.compare_set("failed", "", f"rank {self.rank}: {' '.join(reason.split())}")
            except Exception:
                return

    def leave(self) -> None:
        """This process has done its part and is missed by nobody."""
        if not self._left.is_set() and self._process == os.getpid():
            self._left.set()
            self._thread.join(2 * self.every)
            try:
                self.board.set(f"left/{self.rank}", "1")
            except Exception:
                return

    def _go_on(self) -> None:
        while not self._left.wait(self.every):
            try:
                self.board.add(f"beat/{self.rank}", 1)
                if problem := self.look():
                    self._stop(problem)
                self._heard[self.rank] = (0, time.monotonic())
            except Exception:
                # The board is rank 0's.
                if time.monotonic() - self._heard[self.rank][1] > self.lost and not self._left.is_set():
                    self._stop(f"rank 0 has not been heard of for {self.lost:.0f} s")

    def look(self) -> str:
        """What is wrong with the others; empty while they are there."""
        if self.board.check(["failed"]) and (reason := self.board.get("failed").decode()):
            return str(reason)
        now = time.monotonic()
        for other in range(self.size):
            if other == self.rank or self.board.check([f"left/{other}"]):
                continue
            beats, heard = self._heard[other]
            if (count := self.board.add(f"beat/{other}", 0)) != beats:
                self._heard[other] = (count, now)
            elif now - heard > self.lost:
                known = self.board.check([f"place/{other}"])
                place = f" ({self.board.get(f'place/{other}').decode()})" if known else ""
                return f"rank {other}{place} has not been heard of for {self.lost:.0f} s"
        return ""

    def _stop(self, problem: str) -> None:
        said = f"mllm-eval: {problem}; rank {self.rank} stops with it, and the same command goes on from what is kept"
        print(said, file=sys.stderr, flush=True)
        # The main thread may be in a call that nothing else ends.
        os._exit(1)


_watch: Watch | None = None


def watch(group: Any) -> None:
    """Begin to watch over torch's process group; all its processes call it, once."""
    global _watch
    rank, size = group.get_rank(), group.get_world_size()
    if size == 1 or (_watch is not None and not _watch._left.is_set()):
        return
    host = os.environ.get("MASTER_ADDR", "127.0.0.1")
    own = group.TCPStore(host, 0, is_master=True, wait_for_workers=False) if rank == 0 else None
    port: list[int | None] = [own.port if own else None]
    group.broadcast_object_list(port, src=0)
    _watch = Watch(own or group.TCPStore(host, port[0], is_master=False), rank, size)


def failed(reason: str) -> None:
    """Tell the others, where there are any, why this process ends."""
    if _watch is not None:
        _watch.fail(reason)

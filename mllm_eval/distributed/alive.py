"""Detects lost processes by heartbeats. If one process is lost, all others stop.

A launcher ends all processes if one exits with an error. But a process that is suspended, disconnected, or on a lost
machine does not exit. The others would wait for it in a collective until its timeout, up to days. Heartbeats are
counters, so clocks may differ between machines.
"""

from __future__ import annotations

import atexit
import os
import socket
import sys
import threading
import time
from typing import Any

from mllm_eval.distributed.board import shared_board

# Seconds between two heartbeats, and seconds without one after which a process counts as lost.
EVERY = 5.0
LOST = 120.0


class Watch:
    """Sends this process's heartbeats and checks those of the others, in a thread that runs until `leave`."""

    def __init__(self, board: Any, rank: int, size: int, every: float | None = None, lost: float | None = None) -> None:
        """board: torch's store that all processes share, on a connection of its own. every, lost: in seconds."""
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
        """Tell the other processes why this one ends. They stop with that message."""
        if not self._left.is_set():
            self._left.set()
            try:
                # Only the first reason is kept, because later ones are its consequences.
                self.board.compare_set("failed", "", f"rank {self.rank}: {' '.join(reason.split())}")
            except Exception:
                return

    def leave(self) -> None:
        """Stop the heartbeats of a process that has finished its work, so that it does not count as lost."""
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
                # Rank 0 holds the store, so errors mean that rank 0 cannot be reached.
                if time.monotonic() - self._heard[self.rank][1] > self.lost and not self._left.is_set():
                    self._stop(f"rank 0 has not been heard of for {self.lost:.0f} s")

    def look(self) -> str:
        """An error message if a process failed or is lost; empty otherwise."""
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
        # os._exit, because the main thread may be blocked in a collective.
        os._exit(1)


_watch: Watch | None = None


def watch(group: Any) -> None:
    """Start the heartbeats in torch's process group. All its processes must call this once."""
    global _watch
    rank, size = group.get_rank(), group.get_world_size()
    if size == 1 or (_watch is not None and not _watch._left.is_set()):
        return
    _watch = Watch(shared_board(group), rank, size)


def failed(reason: str) -> None:
    """Tell the other processes, if there are any, why this process ends."""
    if _watch is not None:
        _watch.fail(reason)

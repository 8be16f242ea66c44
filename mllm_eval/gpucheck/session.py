"""What all checks share: the device, the clock, the folder for their files, and where they tell what they found."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from mllm_eval.gpucheck.result import Check, Direction, Value, holds

GIB = 2**30


class Wanted(NamedTuple):
    """What a value is held to, and its unit."""

    direction: Direction = ""
    bound: Value = None
    unit: str = ""


@dataclass
class Session:
    """A run of the checks.

    folder: thrown away at the end. budget: seconds for all checks together. dry: on a CPU, with tiny shapes.
    planted: each check has its fault in it. gpus: of the checks for several. tell: is given every line as it comes.
    """

    folder: Path
    dry: bool
    device: str
    device_name: str
    budget: float
    tell: Callable[[Check], None]
    planted: bool = False
    gpus: int = 1
    checks: list[Check] = field(default_factory=list)
    trained: dict[str, Any] = field(default_factory=dict)
    group: str = ""
    begun: float = field(default_factory=time.perf_counter)
    lap: float = field(default_factory=time.perf_counter)

    @property
    def left(self) -> float:
        """Seconds of the budget."""
        return self.budget - (time.perf_counter() - self.begun)

    def judge(
        self,
        name: str,
        value: Value,
        direction: Direction,
        bound: Value,
        unit: str = "",
        note: str = "",
    ) -> None:
        """A value that is right or wrong on any device and at any shape."""
        self._add(name, value, Wanted(direction, bound, unit), holds(value, direction, bound), note)

    def judge_on_gpu(
        self, name: str, value: Value, direction: Direction, bound: Value, unit: str = "", note: str = ""
    ) -> None:
        """A speed, or a size in memory: judged at true shapes on a GPU, shown elsewhere."""
        if self.dry:
            self._add(name, value, Wanted(direction, bound, unit), None, note or "not judged on a CPU")
        else:
            self.judge(name, value, direction, bound, unit, note)

    def seen(self, name: str, value: Value, unit: str = "", note: str = "") -> None:
        """A value of which nothing is asked."""
        self._add(name, value, Wanted(unit=unit), None, note)

    def skip(self, name: str, why: str) -> None:
        """What was not tried, and why."""
        self._add(name, None, Wanted(), None, why, skipped=True)

    def fail(self, name: str, why: str) -> None:
        """What could not be tried because something broke."""
        self._add(name, None, Wanted(), False, why)

    def _add(
        self,
        name: str,
        value: Value,
        wanted: Wanted,
        passed: bool | None,
        note: str,
        skipped: bool = False,
    ) -> None:
        now = time.perf_counter()
        seconds, device = now - self.lap, self.device_name
        one = Check(self.group, name, value, *wanted, passed, seconds, device, skipped, note)
        self.lap = now
        self.checks.append(one)
        self.tell(one)

    def wait(self) -> None:
        """Until the device has done what it was given."""
        import torch

        if not self.dry:
            torch.cuda.synchronize()

    def seconds(self, work: Callable[[], object], rounds: int = 1, warm: int = 0) -> float:
        """Wall seconds of some work, the median of `rounds`, after `warm` calls that are not timed."""
        taken = []
        for at in range(-warm, rounds):
            self.wait()
            start = time.perf_counter()
            work()
            self.wait()
            if at >= 0:
                taken.append(time.perf_counter() - start)
        return sorted(taken)[len(taken) // 2]

    def free(self) -> None:
        """Give back what nothing holds any more, and count the peak anew."""
        import torch

        gc.collect()
        if not self.dry:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peak(self) -> float | None:
        """GiB, the most since `free`; None on a CPU, where nobody counts."""
        import torch

        return None if self.dry else torch.cuda.max_memory_allocated() / GIB

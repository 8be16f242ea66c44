"""The session that all checks share: device, clock, temporary folder, and the report."""

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
    """How a value must compare with its bound, and its unit."""

    direction: Direction = ""
    bound: Value = None
    unit: str = ""


@dataclass
class Session:
    """A run of the checks.

    folder: temporary, deleted at the end. budget: seconds for all checks together. dry: on a CPU with tiny shapes.
    tell: called with each line. planted: each check contains its planted fault. gpus: number of GPUs. trained: results
    of trainings, which several checks share.
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
        """The seconds that are left of the budget."""
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
        """Reports a value that is judged on every device and at every shape."""
        self._add(name, value, Wanted(direction, bound, unit), holds(value, direction, bound), note)

    def judge_on_gpu(
        self, name: str, value: Value, direction: Direction, bound: Value, unit: str = "", note: str = ""
    ) -> None:
        """Reports a speed or a memory size: judged on a GPU at real shapes, only shown on a CPU."""
        if self.dry:
            self._add(name, value, Wanted(direction, bound, unit), None, note or "not judged on a CPU")
        else:
            self.judge(name, value, direction, bound, unit, note)

    def seen(self, name: str, value: Value, unit: str = "", note: str = "") -> None:
        """Reports a value without a bound."""
        self._add(name, value, Wanted(unit=unit), None, note)

    def skip(self, name: str, why: str) -> None:
        """Reports what was skipped, and why."""
        self._add(name, None, Wanted(), None, why, skipped=True)

    def fail(self, name: str, why: str) -> None:
        """Reports what failed because of an error."""
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
        """Waits until the device has finished its work."""
        import torch

        if not self.dry:
            torch.cuda.synchronize()

    def seconds(self, work: Callable[[], object], rounds: int = 1, warm: int = 0) -> float:
        """The median wall seconds of `rounds` calls of `work`, after `warm` calls that are not timed."""
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
        """Frees unused memory, and resets the peak."""
        import torch

        gc.collect()
        if not self.dry:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peak(self) -> float | None:
        """The peak of allocated GPU memory in GiB since `free`; None on a CPU."""
        import torch

        return None if self.dry else torch.cuda.max_memory_allocated() / GIB

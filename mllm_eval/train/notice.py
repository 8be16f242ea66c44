"""Checkpoints beside those of a stage's schedule: after a notice that the machine is taken away, and after a while.

transformers' own checkpoint on SIGTERM is not used: each of its processes decides alone, one that gets the signal a
step later waits for the others for ever, and it knows neither Slurm's signals nor time.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from time import monotonic
from types import FrameType
from typing import Any

import torch
from transformers import TrainerCallback

# What launchers and Slurm send before they end a process.
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
# Seconds between a launcher's notice and the end, where the launcher says them.
VARIABLE = "MLLM_EVAL_NOTICE"
# Seconds of training that a crash may cost at most.
LONGEST = 30 * 60.0


log = logging.getLogger(__name__)


class Notice:
    """Notes a signal instead of obeying it, while in the `with` block; `obey` does what was put off.

    Outside the main thread nothing can be noted, and signals do what they did.
    """

    def __init__(self) -> None:
        self.number = 0
        """The signal that came; 0 for none."""
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Notice:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _note(self, number: int, _: FrameType | None) -> None:
        self.number = number

    def obey(self, number: int) -> None:
        """What this signal did before this notice: it may end the process, put its job into the queue, or nothing."""
        self.number = 0
        before = self._before.get(number, signal.SIG_DFL)
        if callable(before):
            before(number, None)
        elif before == signal.SIG_DFL:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)


class Checkpoints(TrainerCallback):
    """Asks for a checkpoint at the end of a step when any process has a notice, or rank 0's last one is long ago."""

    def __init__(self, notice: Notice, device: torch.device, longest: float = LONGEST) -> None:
        self.notice = notice
        self.device = device
        self.longest = longest
        self.agreed = 0
        """The signal that all processes obey once the checkpoint is written; 0 for none."""
        self._last = monotonic()
        self._step = self._last
        self._longest_step = 0.0
        self._told = False

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """A step begins."""
        self._step = monotonic()

    def written(self, seconds: float) -> None:
        """A checkpoint took so long: say once where the notice is too short for a step and one more such."""
        notice = float(os.environ.get(VARIABLE, "0"))
        needed = self._longest_step + seconds
        if notice and needed > notice and not self._told:
            self._told = True
            log.warning(
                "a checkpoint took %.0f s and a step up to %.0f s, but the job is told only %.0f s before its end: a "
                "preempted job goes on from an earlier checkpoint; queue it with `--notice %d`",
                seconds,
                self._longest_step,
                notice,
                round(1.5 * needed),
            )

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Agree with the other processes: what one of them has been told, all do."""
        self._longest_step = max(self._longest_step, monotonic() - self._step)
        due = state.is_world_process_zero and monotonic() - self._last >= self.longest
        told = torch.tensor([self.notice.number, int(due)], device=self.device)
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(told, torch.distributed.ReduceOp.MAX)
        self.agreed, now = (int(one) for one in told.tolist())
        control.should_save = control.should_save or bool(self.agreed or now)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The clock begins anew."""
        self._last = monotonic()

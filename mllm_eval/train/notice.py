"""Extra checkpoints: when a signal announces the end of the job, and when the last checkpoint is long ago.

transformers' own checkpoint on SIGTERM is not used. There, each process decides alone, so that a process that gets the
signal one step later waits for the others forever. It also handles neither Slurm's signals nor elapsed time.
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

from mllm_eval.distributed import largest

# Signals that launchers and Slurm send before they end a process.
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
# Environment variable with the seconds between the signal and the end of the job.
VARIABLE = "MLLM_EVAL_NOTICE"
# Most seconds between two checkpoints, which bounds the work that a crash can lose.
LONGEST = 30 * 60.0


log = logging.getLogger(__name__)


class Notice:
    """Context that records signals instead of handling them; `obey` then runs the previous handler.

    Outside the main thread, Python cannot set handlers, so signals keep their previous effect.
    """

    def __init__(self) -> None:
        self.number = 0
        """The recorded signal; 0 for none."""
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
        """Run the handler that this signal had before: it may end the process, requeue the job, or do nothing."""
        self.number = 0
        before = self._before.get(number, signal.SIG_DFL)
        if callable(before):
            before(number, None)
        elif before == signal.SIG_DFL:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)


class Checkpoints(TrainerCallback):
    """Requests a checkpoint after a step if any rank has received a signal or rank 0's last checkpoint is long ago."""

    def __init__(self, notice: Notice, device: torch.device, longest: float = LONGEST) -> None:
        self.notice = notice
        self.device = device
        self.longest = longest
        self.agreed = 0
        """The signal that all ranks obey once the checkpoint is written; 0 for none."""
        self._last = monotonic()
        self._step = self._last
        self._longest_step = 0.0
        self._told = False

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start the timer of the step."""
        self._step = monotonic()

    def written(self, seconds: float) -> None:
        """Warn once if the job's notice is too short for one more step and a checkpoint that takes `seconds`."""
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
        """Agree with the other ranks on a checkpoint: a signal or timeout on one rank applies to all."""
        self._longest_step = max(self._longest_step, monotonic() - self._step)
        due = state.is_world_process_zero and monotonic() - self._last >= self.longest
        self.agreed, now = largest([self.notice.number, int(due)], self.device)
        control.should_save = control.should_save or bool(self.agreed or now)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Restart the timer since the last checkpoint."""
        self._last = monotonic()

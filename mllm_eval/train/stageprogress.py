"""A stage's log, its complete checkpoints, and its progress."""

from __future__ import annotations

import json
import logging
import math
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mllm_eval import disk
from mllm_eval.disk import saving
from mllm_eval.errors import UserError
from mllm_eval.model import sums
from mllm_eval.operations.count import Lessons, encoding, learning
from mllm_eval.operations.shapes import added_parameters, encoder_shape, known_llama_shape, projector_shape
from mllm_eval.progress import Progress
from mllm_eval.storage import parse_json, write_atomic

if TYPE_CHECKING:
    from mllm_eval.catalog import Stage
    from mllm_eval.run import Run
    from mllm_eval.train.stages import Prepared

log = logging.getLogger(__name__)


class StageLog:
    """log.jsonl: one line per step with loss, learning rate, gradient norm, tokens and seconds.

    Opening the log at a step removes the lines of later steps, which are repeated, and an unfinished line.
    """

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        kept = []
        if path.is_file():
            for line in path.read_bytes().splitlines(keepends=True):
                try:
                    entry = parse_json(line, fields_once=False)
                    if not line.endswith(b"\n") or entry["step"] > step:
                        break
                except (ValueError, KeyError, TypeError):
                    break
                kept.append(line)
        write_atomic(path, b"".join(kept))
        self._last = time.monotonic()

    def add(self, step: int, loss: float, lr: float, norm: float | None, tokens: int) -> None:
        """Append a step's line. Raises UserError, without writing it, for a loss that is not finite."""
        now = time.monotonic()
        entry = {
            "step": step,
            "loss": loss,
            "lr": lr,
            "grad_norm": norm,
            "tokens": tokens,
            "seconds": round(now - self._last, 4),
        }
        self._last = now
        if not math.isfinite(loss):
            raise UserError(f"{self.path.parent}: the loss of step {step} is {loss}; lower the learning rate")
        with saving(self.path), open(self.path, "ab", buffering=0) as file:
            disk.write(file.fileno(), (json.dumps(entry) + "\n").encode())


def mark_whole(folder: Path) -> None:
    """Mark a checkpoint as complete, by a file with the sizes and checksums of its files."""
    sums.write(folder)


def latest_whole(folder: Path) -> Path | None:
    """Return the newest complete `checkpoint-<step>` in a folder, and log a warning for each incomplete newer one.

    Returns None where no checkpoint was ever complete. Raises UserError where all complete ones were damaged later,
    so that their steps are not discarded silently.
    """
    numbered = [(int(path.name.partition("-")[2]), path) for path in folder.glob("checkpoint-*")]
    damage = None
    for step, path in sorted(numbered, reverse=True):
        expected = sums.read(path)
        if expected is not None and not (lost := sums.differing(path, expected)):
            return path
        if expected and damage is None:
            damage = f"{path / lost[0]}: missing, or not as it was written"
        log.warning("%s: the checkpoint of step %d is incomplete, going on from the one before", path, step)
    if damage:
        raise UserError(f"{damage}; put it back, or delete {folder} to train the stage from its beginning")
    return None


def remove_others(folder: Path, kept: Path | None) -> None:
    """Remove all checkpoints of a folder except `kept`."""
    for path in folder.glob("checkpoint-*"):
        if path != kept:
            shutil.rmtree(path)


def is_made(run: Run, number: int) -> bool:
    """Whether a stage is finished: its projector (stage 1) or the run's checkpoint (stage 2) exists."""
    made = run.stage_dir(1) / "projector.safetensors" if number == 1 else run.checkpoint / "config.json"
    return made.is_file()


class RunProgress:
    """Progress of encoding and both stages together, in one unit, for a bar that shows the remaining time.

    The unit is 10^6 floating-point operations as counted by `mllm_eval.operations`. A stage's operations are divided
    among its steps by their tokens. Work done by an earlier call is not counted, as it tells nothing about speed.
    `missing`: number of images to encode.
    """

    def __init__(self, run: Run, prepared: Sequence[Prepared], missing: int, progress: Progress | None) -> None:
        self.progress = progress
        self.image = encoding(encoder_shape(run.encoder), 1) / 1e6
        self.done = 0.0
        self.of_set = 0.0
        self.before: dict[int, float] = {}
        self.steps_of: dict[int, NDArray[np.float64]] = {}
        self.total = missing * self.image
        for one in prepared:
            tokens = np.array([one.plan.tokens(step) for step in range(one.plan.steps)], np.float64)
            cost = tokens * (_learning(run, one.stage, tokens) / max(1.0, tokens.sum()))
            self.before[one.number] = self.total
            self.steps_of[one.number] = np.concatenate([[0.0], np.cumsum(cost)])
            if not is_made(run, one.number):
                self.total += self.steps_of[one.number][-1]

    def encoded(self, done: int) -> None:
        """Report that `done` images of the current set are encoded."""
        self.of_set = done * self.image
        self._tell(self.done + self.of_set)

    def next_set(self) -> None:
        """Report that the current set is encoded."""
        self.done += self.of_set
        self.of_set = 0.0

    def steps(self, number: int) -> Callable[[int], None]:
        """Return the callback for a stage, to be called after each step with the number of its finished steps."""
        earlier: float | None = None

        def tell(step: int) -> None:
            nonlocal earlier
            if earlier is None:
                # The first call shows where the stage resumed; the steps before it were done by an earlier call.
                earlier = float(self.steps_of[number][step - 1])
                self.total -= earlier
                self.before = {one: work - earlier * (one > number) for one, work in self.before.items()}
            self._tell(self.before[number] + self.steps_of[number][step] - earlier)

        return tell

    def _tell(self, done: float) -> None:
        if self.progress is not None:
            self.progress(round(done), round(self.total))


def _learning(run: Run, stage: Stage, tokens: NDArray[np.float64]) -> float:
    """Return 10^6 operations of a stage, given each step's tokens; all text after the image is counted as targets."""
    llm, rows = known_llama_shape(run.llm), len(tokens) * stage.batch
    added = added_parameters(stage, llm)
    length, image = round(tokens.sum() / max(1, rows)), run.recipe.positions
    own = stage.train_llm and added is None
    lessons = Lessons(rows, length, max(1, length - image), min(image, length), own, added or 0)
    return learning(llm, projector_shape(run.encoder, run.recipe, run.llm), lessons) / 1e6

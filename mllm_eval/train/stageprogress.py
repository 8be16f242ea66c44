"""What a stage tells while it runs: its log, which of its checkpoints are whole, and how far it is."""

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

"""Gets the work done and all of it."""
log = logging.getLogger(__name__)


class StageLog:
    """log.jsonl: one line a step with loss, learning rate, gradient norm, tokens and seconds.

    Opening it for a step cuts away what lies behind: lines of steps that are done again, or half a line.
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
        """Append a step. Raises UserError for a loss that is not finite: nothing after it would mean anything."""
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
    """Say that a checkpoint is complete: its files, their sizes and checksums."""
    sums.write(folder)


def latest_whole(folder: Path) -> Path | None:
    """The newest complete `checkpoint-<step>` in a folder; incomplete newer ones are reported in a line each.

    Raises UserError where none is complete and one was: its steps are not thrown away without being asked.
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
    """Remove the checkpoints of a folder that training does not go on from."""
    for path in folder.glob("checkpoint-*"):
        if path != kept:
            shutil.rmtree(path)


def is_made(run: Run, number: int) -> bool:
    """Whether what a stage makes is there."""
    made = run.stage_dir(1) / "projector.safetensors" if number == 1 else run.checkpoint / "config.json"
    return made.is_file()


class Work:
    """Images and steps as parts of one amount of work, which a bar and its time left can be told by.

    The unit is 10^6 floating-point operations, as `mllm_eval.operations` counts them for a plan: a stage's go to its
    steps by their tokens. What an earlier call has done is no part of it, since it says nothing of the time left.
    `missing`: images to encode.
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
        """So many images of the set at hand are encoded."""
        self.of_set = done * self.image
        self._tell(self.done + self.of_set)

    def next_set(self) -> None:
        """The set at hand is encoded."""
        self.done += self.of_set
        self.of_set = 0.0

    def steps(self, number: int) -> Callable[[int], None]:
        """What to call with the number of steps that a stage has done, each time that it has done one more."""
        earlier: float | None = None

        def tell(step: int) -> None:
            nonlocal earlier
            if earlier is None:
                # The first call tells where the stage went on: a checkpoint of an earlier call has the steps before.
                earlier = float(self.steps_of[number][step - 1])
                self.total -= earlier
                self.before = {one: work - earlier * (one > number) for one, work in self.before.items()}
            self._tell(self.before[number] + self.steps_of[number][step] - earlier)

        return tell

    def _tell(self, done: float) -> None:
        if self.progress is not None:
            self.progress(round(done), round(self.total))


def _learning(run: Run, stage: Stage, tokens: NDArray[np.float64]) -> float:
    """Millions of operations of a stage whose steps have so many tokens; words are learnt at all behind the image."""
    llm, rows = known_llama_shape(run.llm), len(tokens) * stage.batch
    added = added_parameters(stage, llm)
    length, image = round(tokens.sum() / max(1, rows)), run.recipe.positions
    own = stage.train_llm and added is None
    lessons = Lessons(rows, length, max(1, length - image), min(image, length), own, added or 0)
    return learning(llm, projector_shape(run.encoder, run.recipe, run.llm), lessons) / 1e6

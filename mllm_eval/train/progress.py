"""What a stage leaves behind while it runs: its log, and which of its checkpoints are whole."""

from __future__ import annotations

import json
import logging
import math
import shutil
import time
from pathlib import Path
from typing import Any

from mllm_eval.errors import UserError
from mllm_eval.storage import write_atomic, write_json

log = logging.getLogger(__name__)

MARKER = "files.json"


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
                    entry = json.loads(line)
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
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")


def _files(folder: Path) -> dict[str, int]:
    found = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != MARKER)
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in found}


def mark_whole(folder: Path) -> None:
    """Say that a checkpoint is complete: its files and their sizes."""
    write_json(folder / MARKER, _files(folder))


def latest_whole(folder: Path) -> Path | None:
    """The newest complete `checkpoint-<step>` in a folder; incomplete newer ones are reported in a line each.

    Raises UserError where none is complete and one was: its steps are not thrown away without being asked.
    """
    found = [(int(path.name.partition("-")[2]), path) for path in folder.glob("checkpoint-*")]
    damage = None
    for step, path in sorted(found, reverse=True):
        try:
            expected: Any = json.loads((path / MARKER).read_bytes())
        except (OSError, ValueError):
            expected = None
        if expected == (here := _files(path)):
            return path
        if expected and damage is None:
            lost = sorted(name for name, size in expected.items() if here.get(name) != size)
            damage = f"{path / lost[0] if lost else path}: missing, or not as it was written"
        log.warning("%s: the checkpoint of step %d is incomplete, going on from the one before", path, step)
    if damage:
        raise UserError(f"{damage}; put it back, or delete {folder} to train the stage from its beginning")
    return None


def remove_others(folder: Path, kept: Path | None) -> None:
    """Remove the checkpoints of a folder that training does not go on from."""
    for path in folder.glob("checkpoint-*"):
        if path != kept:
            shutil.rmtree(path)

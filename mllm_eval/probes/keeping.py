"""The state that a stopped probe resumes from: one file of tensors, written atomically from time to time."""

from __future__ import annotations

import json
import time
from pathlib import Path

import torch
from torch import Tensor

from mllm_eval.disk import as_written, sum_note
from mllm_eval.distributed import place_in_group
from mllm_eval.storage import write_summed

EVERY_SECONDS = 20.0
# The largest share of the run time that may be spent on writing.
SHARE = 0.05


class StateFile:
    """The state file in a probe's folder. Only the first process writes it; all of them read it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._next = time.monotonic() + EVERY_SECONDS

    def load(self) -> dict[str, Tensor]:
        """The saved tensors, on the CPU; empty if there are none, or if the file is damaged."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(self.path) if self.path.is_file() and as_written(self.path) else {}
        except (SafetensorError, OSError):
            return {}

    def due(self) -> bool:
        """Whether the state should be saved again."""
        return time.monotonic() >= self._next

    def save(self, tensors: dict[str, Tensor]) -> None:
        """Replaces the saved tensors; in a process group only the first process writes."""
        from safetensors.torch import save

        began = time.monotonic()
        if place_in_group()[0] == 0:
            write_summed(self.path, save({name: one.detach().to("cpu").contiguous() for name, one in tensors.items()}))
        took = time.monotonic() - began
        self._next = time.monotonic() + max(EVERY_SECONDS, took / SHARE)

    def remove(self) -> None:
        """Deletes the state, since the probe is complete."""
        if place_in_group()[0] == 0:
            self.path.unlink(missing_ok=True)
            sum_note(self.path).unlink(missing_ok=True)


def reasons(of: dict[str, str]) -> Tensor:
    """The images that can't be used, id -> why, as a tensor, so that it can be saved; `told_reasons` reads it."""
    return torch.frombuffer(bytearray(json.dumps(of).encode()), dtype=torch.uint8)


def told_reasons(saved: Tensor) -> dict[str, str]:
    """What `reasons` saved."""
    known: dict[str, str] = json.loads(saved.numpy().tobytes())
    return known


def number(value: int) -> Tensor:
    """A number as a tensor, so that it can be saved."""
    return torch.tensor([value])

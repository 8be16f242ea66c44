"""What a probe that is stopped goes on from: one file of tensors, whole or absent, written now and then."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from torch import Tensor

from mllm_eval.disk import as_written, sum_note
from mllm_eval.probes.ranks import rank
from mllm_eval.storage import write_summed

EVERY_SECONDS = 20.0
# Of the time at most so much goes into writing.
SHARE = 0.05


class Kept:
    """A file in a probe's folder that one process writes and all read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._next = time.monotonic() + EVERY_SECONDS

    def load(self) -> dict[str, Tensor]:
        """What was kept, on the CPU; empty where nothing was, or where it is damaged."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(self.path) if self.path.is_file() and as_written(self.path) else {}
        except (SafetensorError, OSError):
            return {}

    def due(self) -> bool:
        """Whether it is time to keep something again."""
        return time.monotonic() >= self._next

    def save(self, tensors: dict[str, Tensor]) -> None:
        """Keep tensors in the place of those before; of several processes the first does it."""
        from safetensors.torch import save

        began = time.monotonic()
        if rank()[0] == 0:
            write_summed(self.path, save({name: one.detach().to("cpu").contiguous() for name, one in tensors.items()}))
        took = time.monotonic() - began
        self._next = time.monotonic() + max(EVERY_SECONDS, took / SHARE)

    def remove(self) -> None:
        """Nothing is left to go on from."""
        if rank()[0] == 0:
            self.path.unlink(missing_ok=True)
            sum_note(self.path).unlink(missing_ok=True)


def number(value: int) -> Tensor:
    """A number as a tensor, to keep."""
    return torch.tensor([value])

"""What the head on every patch is asked: the classes of pixels, or their depth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mllm_eval.adapters.base import FeatureMap
from mllm_eval.catalog import Encoder
from mllm_eval.probes.examples import Example

Logits = Callable[[Tensor], list[Tensor]]
"""Pixels [B, 3, H, W] -> of each head, logits [B, O, h, w] at the encoder's grid."""


class Tested(NamedTuple):
    """What one image adds under one head: a score, or of each class the pixels in the intersection and the union."""

    score: float | None = None
    inside: NDArray[np.int64] | None = None
    union: NDArray[np.int64] | None = None


class Task:
    """A task for heads on patches. `outputs` of a head; whether a batch norm stands before it."""

    outputs: int
    batch_norm: bool
    with_summary: bool

    def __init__(self, facts: Encoder) -> None:
        self.facts = facts

    def view(self, example: Example, rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[Any]]:
        """Pixels [3, H, W] and the target [H, W] of a training crop. Raises UserError for what can't be learnt from."""
        raise NotImplementedError

    def loss(self, logits: Tensor, target: Tensor, step: int) -> Tensor:
        """The loss of a group: logits [B, O, h, w] at the grid, target [B, H, W]."""
        raise NotImplementedError

    def test(self, example: Example, logits: Logits) -> list[Tested]:
        """What an image adds, for each head. Raises UserError for one that can't be tested."""
        raise NotImplementedError

    def features(self, maps: Sequence[FeatureMap]) -> Tensor:
        """[B, C, h, w] float32 of the layers' features, side by side, each with its summary where the task has it."""
        parts = []
        for one in maps:
            patches = one.patches.permute(0, 3, 1, 2)
            parts.append(patches)
            if self.with_summary:
                parts.append(one.summary[:, :, None, None].expand(-1, -1, *patches.shape[2:]))
        return torch.cat(parts, 1).float()

    def channels(self, layers: int) -> int:
        """C of so many layers."""
        return layers * self.facts.width * (2 if self.with_summary else 1)

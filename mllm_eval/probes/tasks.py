"""The tasks of heads on patches: the class of each pixel, or its depth."""

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
"""Maps pixels [B, 3, H, W] to the logits [B, O, h, w] of each head on the encoder's grid."""


class Tested(NamedTuple):
    """An image's contribution under one head: a score, or for each class the pixels in intersection and union."""

    score: float | None = None
    inside: NDArray[np.int64] | None = None
    union: NDArray[np.int64] | None = None


class DenseTask:
    """A task for heads on patches.

    outputs       number of outputs of a head
    batch_norm    whether a batch norm comes before the linear layer
    with_summary  whether each patch's features are joined with the layer's summary
    """

    outputs: int
    batch_norm: bool
    with_summary: bool

    def __init__(self, facts: Encoder) -> None:
        self.facts = facts

    def view(self, example: Example, rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[Any]]:
        """Pixels float32 [3, H, W] and target [H, W] of a training crop. Raises UserError for an unusable example."""
        raise NotImplementedError

    def loss(self, logits: Tensor, target: Tensor, step: int) -> Tensor:
        """The loss of a group: logits [B, O, h, w] on the encoder's grid, target [B, H, W]."""
        raise NotImplementedError

    def test(self, example: Example, logits: Logits) -> list[Tested]:
        """An image's contribution for each head. Raises UserError for an unusable example."""
        raise NotImplementedError

    def features(self, maps: Sequence[FeatureMap]) -> Tensor:
        """The features float32 [B, C, h, w] of the layers, concatenated, each with its summary if `with_summary`."""
        parts = []
        for one in maps:
            patches = one.patches.permute(0, 3, 1, 2)
            parts.append(patches)
            if self.with_summary:
                parts.append(one.summary[:, :, None, None].expand(-1, -1, *patches.shape[2:]))
        return torch.cat(parts, 1).float()

    def channels(self, layers: int) -> int:
        """The number of channels C for a number of layers."""
        return layers * self.facts.width * (2 if self.with_summary else 1)

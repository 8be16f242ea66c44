"""Trains many linear heads at once: all learning rates of an input share one product, one softmax and one update.

A head is a combination of a learning rate and an input. Heads do not influence each other: each gets the weights that
torch's SGD with a cosine schedule would give it alone. The gradient of the summed cross entropies needs no autograd: it
is the transpose of (softmax - one-hot) / batch, times the features.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Input(NamedTuple):
    """The features that a head reads: the summaries of `layers`, and optionally the mean patch of the last of them."""

    layers: tuple[int, ...]
    patch_mean: bool

    def words(self) -> str:
        """The input in words, for people."""
        blocks = ", ".join(str(layer) for layer in self.layers)
        return f"block{'s' * (len(self.layers) > 1)} {blocks}{' with the mean patch' if self.patch_mean else ''}"


class Descent(NamedTuple):
    """The training settings of all heads: standard deviation and seed of the initial weights, and the momentum."""

    deviation: float
    momentum: float
    seed: int


class Heads:
    """Linear heads over `classes` C, one for each of R learning rates and each input.

    The weights of an input are float32 [R * C, d] and its biases [R * C]. Features come as [B, 2, L, D]
    (`encoding.EncodedViews`), where `read` lists the L layers. `rates` [R] already include the scaling by batch size.
    Initial weights are normal with `descent.deviation`, drawn on the CPU from `descent.seed`; biases start at 0.
    """

    def __init__(
        self,
        inputs: Sequence[Input],
        rates: Sequence[float],
        classes: int,
        read: Sequence[int],
        width: int,
        descent: Descent,
        device: torch.device | str = "cpu",
    ) -> None:
        self.inputs = tuple(inputs)
        self.rates = tuple(rates)
        self.classes = classes
        self.momentum = descent.momentum
        self._read = {layer: at for at, layer in enumerate(read)}
        self._rate = torch.tensor(self.rates, dtype=torch.float32, device=device)[:, None, None]
        rows = len(self.rates) * classes
        self.weights, self._moves = [], []
        for one in self.inputs:
            size = width * (len(one.layers) + one.patch_mean)
            # Seeded by the input's name, so that a head's initial weights do not depend on which others exist.
            draws = torch.Generator().manual_seed(zlib.crc32(f"{descent.seed} {one.words()}".encode()))
            parts = [torch.empty(size, classes).normal_(0, descent.deviation, generator=draws).T for _ in self.rates]
            self.weights.append(torch.cat(parts).to(device))
            self._moves.append(torch.zeros(rows, size, device=device))
        self.biases = torch.zeros(len(self.inputs), rows, device=device)
        self._bias_moves = torch.zeros_like(self.biases)

    def __len__(self) -> int:
        return len(self.inputs) * len(self.rates)

    def seen(self, features: Tensor, one: Input) -> Tensor:
        """The features [B, d] that an input reads of features [B, 2, L, D]."""
        parts = [features[:, 0, self._read[layer]] for layer in one.layers]
        if one.patch_mean:
            parts.append(features[:, 1, self._read[one.layers[-1]]])
        return torch.cat(parts, 1) if len(parts) > 1 else parts[0].contiguous()

    def _made(self, at: int, own: Tensor) -> Tensor:
        """Logits [R, C, B] of an input that reads `own` [B, d].

        The batch is the last axis so that the softmax is vectorised even with few classes.
        """
        made = torch.addmm(self.biases[at][:, None], self.weights[at], own.T)
        return made.view(len(self.rates), self.classes, -1)

    def logits(self, features: Tensor) -> Tensor:
        """Logits [B, heads, C]; heads are ordered by input, then by learning rate."""
        made = [self._made(at, self.seen(features, one)) for at, one in enumerate(self.inputs)]
        return torch.cat(made).permute(2, 0, 1)

    def step(self, features: Tensor, labels: Tensor, done: float) -> None:
        """One SGD step on a batch: features [B, 2, L, D], labels int64 [B]; `done` is the share of all steps before it.

        The learning rate is multiplied by (1 + cos(pi * done)) / 2, as in torch's CosineAnnealingLR.
        """
        factor = (1 + math.cos(math.pi * done)) / 2
        wanted = F.one_hot(labels, self.classes).T.float().contiguous()
        # torch's SGD: pace = momentum * pace + gradient, weight -= rate * factor * pace. A head's rate is constant, so
        # it can be multiplied into the small matrix of errors instead of the large one of weights.
        share = self._rate / len(labels)
        # One input at a time: its weights are then still in the processor's cache when they are updated.
        for at, one in enumerate(self.inputs):
            own = self.seen(features, one)
            wrong = self._made(at, own).softmax(1).sub_(wanted).mul_(share).flatten(0, 1)
            self._moves[at].addmm_(wrong, own, beta=self.momentum)
            self.weights[at].sub_(self._moves[at], alpha=factor)
            self._bias_moves[at].mul_(self.momentum).add_(wrong.sum(1))
        self.biases.sub_(self._bias_moves, alpha=factor)

    def state(self) -> dict[str, Tensor]:
        """The weights and momenta by name, to resume from."""
        held = {f"{name}.{at}": one for name, some in (("weight", self.weights), ("move", self._moves))
                for at, one in enumerate(some)}  # fmt: skip
        return {**held, "biases": self.biases, "bias_moves": self._bias_moves}

    def restore(self, state: dict[str, Tensor]) -> bool:
        """Loads what `state` returned. Returns False, and changes nothing, if it belongs to other heads."""
        own = self.state()
        if any(name not in state or state[name].shape != tensor.shape for name, tensor in own.items()):
            return False
        for name, tensor in own.items():
            tensor.copy_(state[name])
        return True

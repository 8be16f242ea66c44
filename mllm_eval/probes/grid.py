"""Many linear heads as one: all rates of an input share one product, one softmax and one update.

A head is a rate and an input; heads never mix, so each is what it would be if it were trained alone by torch's SGD
with a cosine (tested). The gradient of the summed cross entropies needs no graph: it is the features' transpose times
(softmax - one-hot) / batch.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Input(NamedTuple):
    """What a head reads: the summaries of these layers, and the mean patch of the last of them or not."""

    layers: tuple[int, ...]
    patch_mean: bool

    def words(self) -> str:
        """For people."""
        blocks = ", ".join(str(layer) for layer in self.layers)
        return f"block{'s' * (len(self.layers) > 1)} {blocks}{' with the mean patch' if self.patch_mean else ''}"


class Descent(NamedTuple):
    """How heads are trained: the deviation of their first weights, the momentum, and the seed of these weights."""

    deviation: float
    momentum: float
    seed: int


class Heads:
    """Linear heads of `classes` for every rate and input.

    Weights of an input are [d, R * C], its biases [R * C]; features come as [B, 2, L, D] (`encoding.Encoded`) for
    the layers `read`. `rates` [R] are those of the batch that is trained on. Initial weights are normal with
    `descent.deviation`, drawn on the CPU from its seed, biases 0.
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
        self._rate = torch.tensor(self.rates, dtype=torch.float32, device=device).repeat_interleave(classes)
        columns = len(self.rates) * classes
        self.weights, self.biases, self._pace, self._bias_pace = [], [], [], []
        for one in self.inputs:
            size = width * (len(one.layers) + one.patch_mean)
            # A head's first weights do not depend on which others there are beside it.
            draws = torch.Generator().manual_seed(zlib.crc32(f"{descent.seed} {one.words()}".encode()))
            parts = [torch.empty(size, classes).normal_(0, descent.deviation, generator=draws) for _ in self.rates]
            self.weights.append(torch.cat(parts, 1).to(device))
            self.biases.append(torch.zeros(columns, device=device))
            self._pace.append(torch.zeros(size, columns, device=device))
            self._bias_pace.append(torch.zeros(columns, device=device))

    def __len__(self) -> int:
        return len(self.inputs) * len(self.rates)

    def seen(self, features: Tensor, one: Input) -> Tensor:
        """[B, d] what an input reads of features [B, 2, L, D]."""
        parts = [features[:, 0, self._read[layer]] for layer in one.layers]
        if one.patch_mean:
            parts.append(features[:, 1, self._read[one.layers[-1]]])
        return torch.cat(parts, 1) if len(parts) > 1 else parts[0].contiguous()

    def logits(self, features: Tensor) -> Tensor:
        """[B, heads, C]; heads in the order of inputs, then rates."""
        made = [
            torch.addmm(bias, self.seen(features, one), weight).view(-1, len(self.rates), self.classes)
            for one, weight, bias in zip(self.inputs, self.weights, self.biases, strict=True)
        ]
        return torch.cat(made, 1)

    def step(self, features: Tensor, labels: Tensor, done: float) -> None:
        """One step of SGD on a batch: features [B, 2, L, D], labels [B]; `done` is the share of all steps before it.

        The rate is multiplied by (1 + cos(pi * done)) / 2, which torch's CosineAnnealingLR does, too.
        """
        factor = (1 + math.cos(math.pi * done)) / 2
        target = labels[:, None, None].expand(-1, len(self.rates), 1)
        for at, one in enumerate(self.inputs):
            own = self.seen(features, one)
            logits = torch.addmm(self.biases[at], own, self.weights[at])
            wrong = logits.view(len(own), len(self.rates), self.classes).softmax(2)
            wrong.scatter_add_(2, target, wrong.new_full((1, 1, 1), -1.0).expand_as(target))
            flat, share = wrong.view(len(own), -1), 1 / len(own)
            # torch's SGD: pace = momentum * pace + gradient, weight -= rate * pace.
            self._pace[at].addmm_(own.T, flat, beta=self.momentum, alpha=share)
            self._bias_pace[at].mul_(self.momentum).add_(flat.sum(0), alpha=share)
            self.weights[at].addcmul_(self._pace[at], self._rate, value=-factor)
            self.biases[at].addcmul_(self._bias_pace[at], self._rate, value=-factor)

    def state(self) -> dict[str, Tensor]:
        """Everything that training goes on from, by name."""
        named = {"weight": self.weights, "bias": self.biases, "pace": self._pace, "bias_pace": self._bias_pace}
        return {f"{name}.{at}": tensor for name, held in named.items() for at, tensor in enumerate(held)}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state` gave."""
        for name, tensor in self.state().items():
            tensor.copy_(state[name])

"""Many linear heads as one: all rates of an input share one product, one softmax and one update.

A head is a rate and an input; heads never mix, so each is what it would be if it were trained alone by torch's SGD
with a cosine (tested). The gradient of the summed cross entropies needs no graph: it is (softmax - one-hot) / batch,
transposed, times the features.
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

    Weights of an input are [R * C, d], its biases [R * C]; features come as [B, 2, L, D] (`encoding.Encoded`) for
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
        self._rate = torch.tensor(self.rates, dtype=torch.float32, device=device)[:, None, None]
        rows = len(self.rates) * classes
        self.weights, self._moves = [], []
        for one in self.inputs:
            size = width * (len(one.layers) + one.patch_mean)
            # A head's first weights do not depend on which others there are beside it.
            draws = torch.Generator().manual_seed(zlib.crc32(f"{descent.seed} {one.words()}".encode()))
            parts = [torch.empty(size, classes).normal_(0, descent.deviation, generator=draws).T for _ in self.rates]
            self.weights.append(torch.cat(parts).to(device))
            self._moves.append(torch.zeros(rows, size, device=device))
        self.biases = torch.zeros(len(self.inputs), rows, device=device)
        self._bias_moves = torch.zeros_like(self.biases)

    def __len__(self) -> int:
        return len(self.inputs) * len(self.rates)

    def seen(self, features: Tensor, one: Input) -> Tensor:
        """[B, d] what an input reads of features [B, 2, L, D]."""
        parts = [features[:, 0, self._read[layer]] for layer in one.layers]
        if one.patch_mean:
            parts.append(features[:, 1, self._read[one.layers[-1]]])
        return torch.cat(parts, 1) if len(parts) > 1 else parts[0].contiguous()

    def _made(self, at: int, own: Tensor) -> Tensor:
        """Logits [R, C, B] of an input that reads `own` [B, d]. With the batch last, a softmax goes along whole
        vectors, however few classes there are."""
        made = torch.addmm(self.biases[at][:, None], self.weights[at], own.T)
        return made.view(len(self.rates), self.classes, -1)

    def logits(self, features: Tensor) -> Tensor:
        """[B, heads, C]; heads in the order of inputs, then rates."""
        made = [self._made(at, self.seen(features, one)) for at, one in enumerate(self.inputs)]
        return torch.cat(made).permute(2, 0, 1)

    def step(self, features: Tensor, labels: Tensor, done: float) -> None:
        """One step of SGD on a batch: features [B, 2, L, D], labels [B]; `done` is the share of all steps before it.

        The rate is multiplied by (1 + cos(pi * done)) / 2, which torch's CosineAnnealingLR does, too.
        """
        factor = (1 + math.cos(math.pi * done)) / 2
        wanted = F.one_hot(labels, self.classes).T.float().contiguous()
        # torch's SGD: pace = momentum * pace + gradient, weight -= rate * factor * pace. A head's rate is the same at
        # every step, so that it may go into the small matrix of errors in the place of all weights.
        share = self._rate / len(labels)
        # Input after input: its weights are still in the processor's cache when they are updated.
        for at, one in enumerate(self.inputs):
            own = self.seen(features, one)
            wrong = self._made(at, own).softmax(1).sub_(wanted).mul_(share).flatten(0, 1)
            self._moves[at].addmm_(wrong, own, beta=self.momentum)
            self.weights[at].sub_(self._moves[at], alpha=factor)
            self._bias_moves[at].mul_(self.momentum).add_(wrong.sum(1))
        self.biases.sub_(self._bias_moves, alpha=factor)

    def state(self) -> dict[str, Tensor]:
        """Everything that training goes on from, by name."""
        held = {f"{name}.{at}": one for name, some in (("weight", self.weights), ("move", self._moves))
                for at, one in enumerate(some)}  # fmt: skip
        return {**held, "biases": self.biases, "bias_moves": self._bias_moves}

    def restore(self, state: dict[str, Tensor]) -> bool:
        """Go on from what `state` gave; False, and nothing is changed, where it is not of these heads."""
        own = self.state()
        if any(name not in state or state[name].shape != tensor.shape for name, tensor in own.items()):
            return False
        for name, tensor in own.items():
            tensor.copy_(state[name])
        return True

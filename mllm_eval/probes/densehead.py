"""A linear layer on every patch, optionally after a batch norm, and its training step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mllm_eval.adapters.base import EncoderModel
from mllm_eval.catalog.probe import DenseProbe, DepthProbe
from mllm_eval.distributed import all_parts
from mllm_eval.probes.tasks import DenseTask
from mllm_eval.probes.windows import padded

# The constants of torch's batch norm, and the deviation of the initial weights of mmsegmentation's last layer.
EPSILON, MOMENTUM, DEVIATION = 1e-5, 0.1, 0.01


class DenseHead:
    """A linear head of `outputs` O on features of `channels` C: weight float32 [O, C], bias [O].

    With `batch_norm` it also has gain and shift [C], and running mean and variance [C].
    """

    def __init__(self, channels: int, outputs: int, batch_norm: bool, seed: int, place: torch.device | str) -> None:
        self.batch_norm = batch_norm
        draws = torch.Generator().manual_seed(seed)
        weight = torch.empty(outputs, channels).normal_(0, DEVIATION, generator=draws)
        self.learnt = {"weight": weight.to(place), "bias": torch.zeros(outputs, device=place)}
        if batch_norm:
            self.learnt |= {"gain": torch.ones(channels, device=place), "shift": torch.zeros(channels, device=place)}
        for one in self.learnt.values():
            one.requires_grad_()
        self.mean, self.variance = torch.zeros(channels, device=place), torch.ones(channels, device=place)

    def logits(self, features: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        """Logits [B, O, h, w] of features [B, C, h, w]; a batch norm uses the statistics `mean` and `variance` [C]."""
        weight, bias = self.learnt["weight"], self.learnt["bias"]
        if self.batch_norm:
            # The norm is folded into the linear layer, so that it is computed per weight and not per patch.
            factor = self.learnt["gain"] * torch.rsqrt(variance + EPSILON)
            bias = bias + weight @ (self.learnt["shift"] - mean * factor)
            weight = weight * factor
        return torch.nn.functional.conv2d(features, weight[:, :, None, None], bias)

    def tested(self, features: Tensor) -> Tensor:
        """Logits [B, O, h, w] with the running statistics, without a gradient."""
        with torch.no_grad():
            return self.logits(features, self.mean, self.variance)

    def follow(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Updates the running statistics as torch's batch norm does.

        `mean` and the biased `variance` are those of a batch of `count` patches.
        """
        self.mean.lerp_(mean, MOMENTUM)
        self.variance.lerp_(variance * (count / max(1, count - 1)), MOMENTUM)


def rate_at(protocol: DenseProbe, step: int) -> float:
    """The learning rate of a step, as mmcv schedules it.

    It falls to `rate_to` of its start by a cosine (depth), or linearly to 0 (segmentation). A linear warm-up is a
    factor on it.
    """
    done = step / protocol.steps
    if isinstance(protocol, DepthProbe):
        least = protocol.rate * protocol.rate_to
        rate = least + (protocol.rate - least) * (1 + math.cos(math.pi * done)) / 2
    else:
        rate = protocol.rate * (1 - done)
    if step >= protocol.warmup:
        return rate
    return rate * (1 - (1 - step / protocol.warmup) * (1 - protocol.warmup_from))


def betas_at(protocol: DenseProbe, step: int) -> tuple[float, float]:
    """AdamW's betas of a step; with a `cycle`, the first one falls and rises again by cosines (mmcv's OneCycle)."""
    if not isinstance(protocol, DepthProbe) or protocol.cycle is None:
        return protocol.betas
    high, low, rise = protocol.cycle
    turn = max(1.0, rise * protocol.steps)
    began, ended, done = high, low, step / turn
    if step >= turn:
        began, ended, done = low, high, (step - turn) / max(1.0, protocol.steps - turn)
    return ended + (began - ended) * (1 + math.cos(math.pi * min(1.0, done))) / 2, protocol.betas[1]


class HeadTraining:
    """Trains several heads on the same crops; each gets the weights that it would get alone."""

    def __init__(
        self, protocol: DenseProbe, heads: Sequence[DenseHead], groups: Sequence[tuple[int, ...]], task: DenseTask,
        model: EncoderModel,
    ) -> None:  # fmt: skip
        self.protocol, self.heads, self.groups, self.task, self.model = protocol, list(heads), list(groups), task, model
        self._read = sorted({layer for group in groups for layer in group})
        own = [list(head.learnt.values()) for head in heads]
        self._steps = [
            torch.optim.AdamW(one, lr=protocol.rate, betas=protocol.betas, weight_decay=protocol.decay, foreach=False)
            for one in own
        ]
        self._weight = next(model.parameters())

    def features(self, pixels: Tensor) -> list[Tensor]:
        """The features [B, C, h, w] that each head reads of pixels [B, 3, H, W], zero-padded to whole patches."""
        patch = self.model.facts.patch or 1
        maps = self.model(padded(pixels, patch).to(self._weight.device, self._weight.dtype), self._read)
        of = dict(zip(self._read, maps, strict=True))
        return [self.task.features([of[layer] for layer in group]) for group in self.groups]

    def logits(self, pixels: Tensor) -> list[Tensor]:
        """The test logits [B, O, h, w] of each head for pixels [B, 3, H, W]."""
        return [head.tested(one) for head, one in zip(self.heads, self.features(pixels), strict=True)]

    def step(self, step: int, crops: Sequence[Any]) -> None:
        """Trains all heads on one batch; `crops` are this process's groups of it."""
        count = self.protocol.batch // self.protocol.group
        seen = [self.features(one.pixels) if one.pixels is not None else None for one in crops]
        rate, betas = rate_at(self.protocol, step), betas_at(self.protocol, step)
        for number, (head, stepping) in enumerate(zip(self.heads, self._steps, strict=True)):
            own = [None if one is None else one[number] for one in seen]
            mean, variance = self._statistics(head, own, count)
            learnt = list(head.learnt.values())
            like = torch.zeros(sum(one.numel() for one in learnt), device=self._weight.device)
            gradients = []
            for features, one in zip(own, crops, strict=True):
                if features is None:
                    gradients.append(like)
                    continue
                loss = self.task.loss(
                    head.logits(features, mean, variance), one.targets.to(self._weight.device), step
                ) / count  # fmt: skip
                by_tensor = torch.autograd.grad(loss, learnt)
                gradients.append(torch.cat([part.reshape(-1) for part in by_tensor]))
            whole = torch.stack(all_parts(gradients, count, like)).sum(0)
            if self.protocol.clip is not None:
                norm = float(whole.norm())
                whole = whole * min(1.0, self.protocol.clip / (norm + 1e-6))
            at = 0
            for part in learnt:
                part.grad = whole[at : at + part.numel()].view_as(part)
                at += part.numel()
            for settings in stepping.param_groups:
                settings["lr"], settings["betas"] = rate, betas
            stepping.step()

    def _statistics(self, head: DenseHead, own: Sequence[Tensor | None], count: int) -> tuple[Tensor, Tensor]:
        """Mean and variance [C] over the patches of the whole batch; without a batch norm, the head's own."""
        if not head.batch_norm:
            return head.mean, head.variance
        like = torch.zeros(1 + 2 * len(head.mean), dtype=torch.float64, device=head.mean.device)
        sums = []
        for features in own:
            if features is None:
                sums.append(like)
                continue
            flat = features.double().transpose(0, 1).flatten(1)
            sums.append(torch.cat([like.new_tensor([flat.shape[1]]), flat.sum(1), (flat**2).sum(1)]))
        total = torch.stack(all_parts(sums, count, like)).sum(0)
        patches, channels = total[0], len(head.mean)
        mean = total[1 : 1 + channels] / patches
        variance = (total[1 + channels :] / patches - mean**2).clamp_min(0)
        mean, variance = mean.float(), variance.float()
        head.follow(mean, variance, int(patches))
        return mean, variance

    def state(self) -> dict[str, Tensor]:
        """The weights, statistics and optimiser state of all heads by name, to resume from."""
        tensors = {}
        for number, (head, stepping) in enumerate(zip(self.heads, self._steps, strict=True)):
            for name, one in head.learnt.items():
                tensors[f"{number}.{name}"] = one
                for key, value in stepping.state.get(one, {}).items():
                    tensors[f"{number}.{name}.{key}"] = value
            tensors |= {f"{number}.mean": head.mean, f"{number}.variance": head.variance}
        return tensors

    def restore(self, state: dict[str, Tensor]) -> None:
        """Loads what `state` returned."""
        with torch.no_grad():
            for number, (head, stepping) in enumerate(zip(self.heads, self._steps, strict=True)):
                for name, one in head.learnt.items():
                    one.copy_(state[f"{number}.{name}"])
                    for key in ("step", "exp_avg", "exp_avg_sq"):
                        value = state[f"{number}.{name}.{key}"]
                        stepping.state[one][key] = value if key == "step" else value.to(one.device)
                head.mean.copy_(state[f"{number}.mean"])
                head.variance.copy_(state[f"{number}.variance"])

"""Depth per pixel: metres from logits over bins, the scale-invariant loss, and the error per image."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from mllm_eval.catalog import Encoder
from mllm_eval.catalog.probe import DepthProbe
from mllm_eval.errors import UserError
from mllm_eval.probes.denseviews import depth_view
from mllm_eval.probes.examples import Example
from mllm_eval.probes.tasks import DenseTask, Logits, Tested
from mllm_eval.probes.views import normalised

# Added to the logits after the ReLU, and to the depths before the logarithm.
FLOOR, SMALL = 0.1, 1e-3


def read_out(logits: Tensor, low: float, high: float) -> Tensor:
    """Depths [B, H, W] in metres from logits [B, bins, H, W]: a weighted mean of evenly spaced bins.

    The bins go from `low` to `high`. The weights are relu(logit) + 0.1, divided by their sum (AdaBins,
    arXiv:2011.14141, with the linear norm).
    """
    weights = logits.relu() + FLOOR
    bins = torch.linspace(low, high, logits.shape[1], device=logits.device)
    # One product computes both the weighted sum and the sum of the weights.
    sums = torch.einsum("bkhw,kn->bnhw", weights, torch.stack([bins, torch.ones_like(bins)], 1))
    return sums[:, 0] / sums[:, 1]


def upsampled(logits: Tensor, factor: int) -> Tensor:
    """Logits on a grid `factor` times as fine, by bilinear interpolation.

    Published code interpolates the features and then applies the linear layer. The order does not matter, since the
    weights of an interpolation add up to 1, and interpolating logits is much less work.
    """
    if factor == 1:
        return logits
    return F.interpolate(logits, scale_factor=factor, mode="bilinear", align_corners=False)


def sig_loss(predicted: Tensor, wanted: Tensor, mean_share: float, still: bool) -> Tensor:
    """sqrt(var(g) + mean_share * mean(g)^2) with g = log(predicted) - log(wanted), over pixels with wanted > 0.

    `still` leaves out the variance, as published code does in its first steps. 0 if fewer than two pixels are known.
    """
    known = wanted > 0
    if int(known.sum()) < 2:
        return predicted.sum() * 0
    gap = torch.log(predicted[known] + SMALL) - torch.log(wanted[known] + SMALL)
    square = mean_share * gap.mean() ** 2
    return torch.sqrt(square if still else gap.var() + square)


class Depth(DenseTask):
    """The task of estimating depth by a linear layer over bins."""

    batch_norm = False

    def __init__(self, protocol: DepthProbe, facts: Encoder) -> None:
        super().__init__(facts)
        self.protocol = protocol
        self.outputs = protocol.bins
        self.with_summary = protocol.summary

    def metres(self, example: Example, size: tuple[int, int]) -> NDArray[np.float32]:
        """The depth float32 [H, W] in metres of an image of `size` (width, height); 0 where it is not known.

        Raises UserError if the map has another size than the image, or no depth at all.
        """
        values = example.values()
        if values.shape != (size[1], size[0]):
            raise UserError(f"{example.map_path}: {values.shape[1]} x {values.shape[0]}, the picture is "
                            f"{size[0]} x {size[1]}")  # fmt: skip
        if not (values > 0).any():
            raise UserError(f"{example.map_path}: no pixel has a depth")
        return (values / self.protocol.unit).astype(np.float32)

    def view(self, example: Example, rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """A random crop and its depth; see `depth_view`."""
        image = example.image()
        depth = self.metres(example, image.size)
        return depth_view(image, depth, self.protocol, self.facts.preprocessing, rng)

    def predicted(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """Depths [B, *size] in metres from logits [B, bins, h, w]; `size` is (height, width)."""
        protocol = self.protocol
        metres = read_out(upsampled(logits, protocol.upsample), protocol.low, protocol.high)
        return F.interpolate(metres[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]

    def loss(self, logits: Tensor, target: Tensor, step: int) -> Tensor:
        """The scale-invariant loss over all pixels of the group with a known depth."""
        height, width = target.shape[1:]
        depths = self.predicted(logits, (height, width))
        return sig_loss(depths, target, self.protocol.mean_share, step < self.protocol.still)

    def test(self, example: Example, logits: Logits) -> list[Tested]:
        """The root mean squared error in metres of each head within the protocol's window.

        The prediction is the mean over the image and its mirror image.
        """
        image = example.image()
        wanted = self.metres(example, image.size)
        pixels = torch.from_numpy(normalised(image, self.facts.preprocessing))
        top, bottom, left, right = self.protocol.window or (0, wanted.shape[0], 0, wanted.shape[1])
        own = wanted[top:bottom, left:right]
        known = (own > self.protocol.low) & (own < self.protocol.high)
        if not known.any():
            raise UserError(f"{example.map_path}: no pixel within the window has a depth from {self.protocol.low:g} to "
                            f"{self.protocol.high:g} m")  # fmt: skip
        tested = []
        for made in logits(torch.stack([pixels, pixels.flip(2)])):
            both = self.predicted(made, wanted.shape).clamp(self.protocol.low, self.protocol.high)
            mean = ((both[0] + both[1].flip(1)) / 2).cpu().numpy()[top:bottom, left:right]
            gap = mean[known].astype(np.float64) - own[known].astype(np.float64)
            tested.append(Tested(score=math.sqrt(float(np.mean(gap**2)))))
        return tested

"""The null distribution of the maximum over pairs of layers, and an interval over images.

The maximum over many pairs of layers exceeds the chance level of a single pair even for noise, and more so with more
layers. Raw scores of models of different depth therefore can't be compared. The null distribution shuffles captions
against images and takes the maximum anew (a permutation test; calibration as in arXiv:2602.14486).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mllm_eval.alignment.metrics import masks, nearest, shared
from mllm_eval.results.aligned import Null

Progress = Callable[[int, int], None]


def null_of_maximum(
    x: Tensor,
    y: Tensor,
    count: int,
    observed: float,
    permutations: int,
    seed: int = 0,
    progress: Progress | None = None,
) -> Null:
    """The null distribution of the maximum of mutual k-NN over all pairs of layers of x [Lx, N, D] and y [Ly, N, D].

    A permutation renames the samples of y; neighbours within y stay the same, only their pairing with x changes. p
    counts the observed arrangement as one of the shuffled ones, so it is never zero. Raises UserError as `nearest`
    does.
    """
    of_x, of_y = nearest(x, count), nearest(y, count)
    marked = masks(of_x)
    samples = of_x.shape[1]
    draw = torch.Generator().manual_seed(seed)
    maxima = np.empty(permutations)
    for at in range(permutations):
        renamed = torch.randperm(samples, generator=draw)
        places = torch.empty_like(renamed)
        places[renamed] = torch.arange(samples)
        # Sample a of y is now sample renamed[a].
        moved = renamed[of_y][:, places]
        maxima[at] = float(shared(marked, moved).mean(1).max()) / count
        if progress is not None:
            progress(at + 1, permutations)
    # Scores are multiples of 1 / (N k): half of that is subtracted so that rounding does not break ties.
    above = int((maxima > observed - 0.5 / (samples * count)).sum())
    return Null(float(maxima.mean()), float(np.quantile(maxima, 0.95)), (1 + above) / (1 + permutations), permutations)


def interval_over_pictures(by_sample: NDArray[np.float64], draws: int, seed: int = 0) -> tuple[float, float]:
    """95 % limits of the mean of the values [N] of one pair of layers, by a percentile bootstrap over images.

    The pair is the best one on all images, and the neighbours are those among all images: neither is found anew in a
    draw.
    """
    random = np.random.default_rng(seed)
    samples = len(by_sample)
    means = np.array([by_sample[random.integers(0, samples, samples)].mean() for _ in range(draws)])
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)

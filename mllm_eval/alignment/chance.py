"""The null distribution of the maximum over pairs of layers, and an interval over images.

The maximum over many pairs of layers exceeds the chance level of a single pair even for noise, and more so with more
layers. Raw scores of models of different depth therefore can't be compared. The null distribution shuffles captions
against images and takes the maximum anew (a permutation test; calibration as in arXiv:2602.14486).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mllm_eval.alignment.metrics import OVER_NEIGHBOURS
from mllm_eval.alignment.protocol import MetricName
from mllm_eval.progress import Progress, unheard
from mllm_eval.results.aligned import Null


def null_of_maximum(
    metric: MetricName,
    of_x: Tensor,
    of_y: Tensor,
    observed: float,
    permutations: int,
    seed: int = 0,
    progress: Progress = unheard,
) -> Null:
    """The null distribution of the maximum of a metric of `OVER_NEIGHBOURS` over all pairs of layers.

    of_x, of_y: neighbours [Lx, N, k] and [Ly, N, k]. A permutation renames the samples of y; neighbours within y stay
    the same, only their pairing with x changes. p counts the observed arrangement as one of the shuffled ones, so it is
    never zero.
    """
    own = OVER_NEIGHBOURS[metric]
    counting, most = own.counting(of_x), own.most(of_x.shape[2])
    samples = of_x.shape[1]
    draw = torch.Generator().manual_seed(seed)
    maxima = np.empty(permutations)
    for at in range(permutations):
        renamed = torch.randperm(samples, generator=draw)
        places = torch.empty_like(renamed)
        places[renamed] = torch.arange(samples)
        # Sample a of y is now sample renamed[a].
        moved = renamed[of_y][:, places]
        maxima[at] = float(counting(moved).mean(1).max()) / most
        progress(at + 1, permutations)
    # Scores are multiples of 1 / (N most): half of that is subtracted so that rounding does not break ties.
    above = int((maxima > observed - 0.5 / (samples * most)).sum())
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

"""What chance gives: the null distribution of the maximum over pairs of layers, and an interval over pictures.

The maximum over many pairs is above one pair's chance even for noise, the more so the more layers there are, so scores
of models of different depth cannot be compared raw. The captions are shuffled against the pictures, and the maximum is
taken anew (a permutation test; the calibration is that of arXiv:2602.14486).
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
    """The null distribution of the maximum of mutual k-NN over all pairs of layers of features [Lx, N, D], [Ly, N, D].

    Neighbours do not change when samples are renamed: only who is compared with whom does. p counts the observed
    arrangement among the shuffled ones, so it is never zero.
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
        # Sample a of y now stands at renamed[a].
        moved = renamed[of_y][:, places]
        maxima[at] = float(shared(marked, moved).mean(1).max()) / count
        if progress is not None:
            progress(at + 1, permutations)
    # Counts are whole numbers over N k: what is equal must not differ by rounding.
    above = int((maxima > observed - 0.5 / (samples * count)).sum())
    return Null(float(maxima.mean()), float(np.quantile(maxima, 0.95)), (1 + above) / (1 + permutations), permutations)


def interval_over_pictures(by_sample: NDArray[np.float64], draws: int, seed: int = 0) -> tuple[float, float]:
    """95 % limits of the mean of one pair of layers' values [N], by the percentiles of a bootstrap over pictures.

    The pair is the one that was best on all pictures, and neighbours stay those among all of them.
    """
    random = np.random.default_rng(seed)
    samples = len(by_sample)
    means = np.array([by_sample[random.integers(0, samples, samples)].mean() for _ in range(draws)])
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)

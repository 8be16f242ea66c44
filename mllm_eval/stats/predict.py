"""Predicts one number from a few others, and measures how well this works on rows that were left out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mllm_eval.stats.estimator import Floats

# Ridge strengths to choose from, relative to the largest eigenvalue; chosen by leave-one-out on the fitted rows.
RIDGES = (0.0, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
# Numbers of shuffled targets. With one predictor all are predicted at once; with more, each needs its own ridge.
PERMUTATIONS, RIDGE_PERMUTATIONS = 999, 99


@dataclass(frozen=True, slots=True)
class Worth:
    """How well rows are predicted when they are left out.

    left_out     [N] prediction of each row from all others
    families     [N] prediction of each row from rows of other families
    skill        1 - squared error / that of the others' mean: 0 is as good as the mean, 1 is perfect
    by_family    the same if whole families are left out; nan with one family
    p            share of shuffled targets that are predicted as well (one-sided permutation test)
    error        root mean squared error of `left_out`, in the target's units
    """

    left_out: Floats
    families: Floats
    skill: float
    by_family: float
    p: float
    error: float

    @property
    def better_than_the_mean(self) -> bool:
        """Whether the skill is above 0 in both ways of leaving out (if known), and p is at most 0.05."""
        return self.skill > 0 and not self.by_family <= 0 and self.p <= 0.05


def fit(x: Floats, y: Floats) -> tuple[Floats, float]:
    """Least squares of y [N] on x [N, P]: slopes [P] and intercept. With several predictors, ridge regression.

    The ridge strength is the one of `RIDGES` with the smallest leave-one-out error, computed in closed form.
    """
    centre, spread = x.mean(0), x.std(0)
    spread = np.where(spread > 0, spread, 1.0)
    scaled, mean = (x - centre) / spread, float(y.mean())
    u, s, vt = np.linalg.svd(scaled, full_matrices=False)
    best, slopes = math.inf, np.zeros(x.shape[1])
    for ridge in RIDGES if x.shape[1] > 1 else (0.0,):
        shrunk = s**2 / (s**2 + ridge * s[0] ** 2) if s[0] > 0 else np.zeros_like(s)
        hat = (u * shrunk) @ u.T + 1 / len(y)
        left = (y - mean - (hat - 1 / len(y)) @ (y - mean)) / np.maximum(1 - np.diag(hat), 1e-9)
        if (error := float((left**2).sum())) < best:
            inverse = np.divide(shrunk, s, out=np.zeros_like(s), where=s > 0)
            best, slopes = error, vt.T @ (inverse * (u.T @ (y - mean)))
    slopes = slopes / spread
    return slopes, mean - float(slopes @ centre)


def predicted(x: Floats, y: Floats, groups: Sequence[object]) -> Floats:
    """Prediction of each row [N] by a fit on the rows of other groups; nan if too few rows are left."""
    marks = np.array([list(dict.fromkeys(groups)).index(one) for one in groups])
    predictions = np.full(len(y), math.nan)
    for group in np.unique(marks):
        others = marks != group
        if others.sum() >= x.shape[1] + 2 or (x.shape[1] > 1 and others.sum() >= 4):
            slopes, intercept = fit(x[others], y[others])
            predictions[~others] = x[~others] @ slopes + intercept
    return predictions


def worth(x: Floats, y: Floats, families: Sequence[str], seed: int = 0) -> Worth:
    """Measure how well x [N, P] predicts y [N]. Raises ValueError for fewer than five rows."""
    if len(y) < 5:
        raise ValueError("a prediction needs five rows at least")
    alone = list(range(len(y)))
    left_out = predicted(x, y, alone)
    by_family = predicted(x, y, families) if len(set(families)) > 1 else np.full(len(y), math.nan)
    whole = skill(left_out, y, alone)
    error = float(np.sqrt(np.mean((left_out - y) ** 2)))
    p = _p(x, y, whole, np.random.default_rng(seed))
    return Worth(left_out, by_family, whole, skill(by_family, y, families), p, error)


def _p(x: Floats, y: Floats, reached: float, random: np.random.Generator) -> float:
    """Share of shuffled targets with at least the skill `reached`, the observed targets included."""
    alone = list(range(len(y)))
    if x.shape[1] > 1:
        shuffles = (random.permutation(y) for _ in range(RIDGE_PERMUTATIONS))
        above = sum(skill(predicted(x, other, alone), other, alone) >= reached - 1e-9 for other in shuffles)
        return (1 + above) / (1 + RIDGE_PERMUTATIONS)
    # Leave-one-out residuals in closed form: residual / (1 - leverage).
    with_one = np.column_stack([np.ones(len(y)), x])
    hat = with_one @ np.linalg.pinv(with_one)
    targets = np.stack([random.permutation(y) for _ in range(PERMUTATIONS)], axis=1)
    left = (targets - hat @ targets) / (1 - np.diag(hat))[:, None]
    means = (targets - targets.mean(0)) * len(y) / (len(y) - 1)
    skills = 1 - (left**2).sum(0) / (means**2).sum(0)
    return float(1 + (skills >= reached - 1e-9).sum()) / (1 + PERMUTATIONS)


def skill(predictions: Floats, y: Floats, groups: Sequence[object]) -> float:
    """1 - squared error of predictions / squared error of the mean of the rows that each was predicted from."""
    whole = ~np.isnan(predictions)
    if not whole.any():
        return math.nan
    others = [[other != one for other in groups] for one in groups]
    means = np.array([y[np.array(row)].mean() if any(row) else math.nan for row in others])
    return 1 - float(((predictions - y)[whole] ** 2).sum() / ((means - y)[whole] ** 2).sum())


def interval(x: Floats, y: Floats, new: Floats, coverage: float = 0.9) -> tuple[float, float, float]:
    """Prediction at `new` [P], with lower and upper limit of the jackknife+ (Barber et al. 2021).

    The limits cover at least 2 * coverage - 1, and usually about `coverage`. They are infinite if there are too few
    rows for the coverage.
    """
    slopes, intercept = fit(x, y)
    low, high = [], []
    for row in range(len(y)):
        others = np.arange(len(y)) != row
        own, base = fit(x[others], y[others])
        at, off = float(new @ own + base), abs(float(y[row] - x[row] @ own - base))
        low.append(at - off)
        high.append(at + off)
    rank = math.ceil(coverage * (len(y) + 1))
    if rank > len(y):
        return float(new @ slopes + intercept), -math.inf, math.inf
    return float(new @ slopes + intercept), sorted(low)[len(y) - rank], sorted(high)[rank - 1]

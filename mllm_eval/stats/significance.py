"""Is it more than chance, is it more than the other: tests that take the clusters for what they are.

Every p-value here treats an image (or pair, or circular group) as one piece of evidence, however many
questions are asked about it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats  # type: ignore[import-untyped,unused-ignore]

from mllm_eval.stats.bootstrap import DRAWS, Interval, distribution, interval
from mllm_eval.stats.estimator import Floats, Units

FLIPS = 100_000
_CELLS = 8_000_000


def above_chance(units: Units, chance: float) -> float:
    """One-sided p-value of the value being above `chance` (same scale): cluster-robust t-test.

    The standard error is the delta method's over clusters, with one degree of freedom lost a layer; for a
    plain mean it is the cluster-robust t-test of Liang & Zeger (1986). Without any variation, the chance of a
    result as good from coin flips at the chance level, one a cluster, is given instead.
    """
    if units.freedom < 1 or not np.isfinite(units.value):
        return float("nan")
    gain, error = units.value - chance, units.error
    if error > 0:
        return float(stats.t.sf(gain / error, units.freedom))
    top = float(units.weight.sum())
    return float((chance / top) ** len(units.clusters)) if gain > 0 else 1.0


def effects(a: Units, b: Units) -> Floats:
    """[C] what each cluster adds to the difference of the values a - b. Same valid samples on both sides."""
    if a.clusters != b.clusters or not np.array_equal(a.denominator, b.denominator):
        raise ValueError("a paired test needs the same valid samples on both sides")
    total = a.denominator.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(((a.numerator - b.numerator) * a.weight / total).sum(1))


def flipped(effect: Floats, flips: int = FLIPS, seed: int = 0) -> Floats:
    """[flips] differences if the names were exchanged at random, cluster by cluster (signs of effect [C])."""
    moved = effect[effect != 0].astype(np.float32)
    if not len(moved):
        return np.zeros(flips)
    rng = np.random.default_rng(seed)
    out = np.empty(flips)
    step = max(1, _CELLS // len(moved))
    for start in range(0, flips, step):
        rows = min(step, flips - start)
        width = -(-len(moved) // 8)
        bits = np.unpackbits(rng.integers(0, 256, size=(rows, width), dtype=np.uint8), axis=1)
        # a sum of flipped signs is the whole minus twice the part that was flipped
        out[start : start + rows] = moved.sum() - 2.0 * (bits[:, : len(moved)].astype(np.float32) @ moved)
    return out


def two_sided(observed: float, null: Floats) -> float:
    """p-value of `observed` under a null distribution, the observed arrangement counted in (never 0)."""
    close = 1e-5 * max(1.0, abs(observed))  # float32 sums of equal effects differ in their last digits
    return float((1 + (np.abs(null) >= abs(observed) - close).sum()) / (len(null) + 1))


@dataclass(frozen=True, slots=True)
class Paired:
    """Two runs on the same samples: the difference a - b, and the draws that categories are made of."""

    difference: Interval
    p: float
    draws: Floats
    null: Floats


def paired(a: Units, b: Units, seed: int = 0, draws: Floats | int = DRAWS, flips: int = FLIPS) -> Paired:
    """Bootstrap interval and permutation p-value of a - b, clustered.

    `draws` is how many to make, or the differences [draws] of two paired bootstraps made already.
    """
    if isinstance(draws, int):
        boot = distribution([a, b], draws, seed)
        draws = boot[0] - boot[1]
    null = flipped(effects(a, b), flips, seed + 1)
    difference = a.value - b.value
    return Paired(interval(difference, draws), two_sided(difference, null), draws, null)


def combined(parts: Sequence[Paired], weights: Sequence[float]) -> Paired:
    """A weighted sum of differences on benchmarks drawn independently: a category, or AVG."""
    draws = np.asarray(sum(w * part.draws for w, part in zip(weights, parts, strict=True)))
    null = np.asarray(sum(w * part.null for w, part in zip(weights, parts, strict=True)))
    difference = float(sum(w * part.difference.value for w, part in zip(weights, parts, strict=True)))
    return Paired(interval(difference, draws), two_sided(difference, null), draws, null)


def mcnemar(a: Floats, b: Floats) -> tuple[int, int, float]:
    """Samples only a has right, samples only b has right, and the exact two-sided p-value (McNemar 1947).

    Scores must be 0 or 1; nan pairs are left out. Questions are taken as independent here, clusters ignored.
    """
    valid = ~(np.isnan(a) | np.isnan(b))
    values = np.concatenate([a[valid], b[valid]])
    if not np.isin(values, (0.0, 1.0)).all():
        raise ValueError("McNemar's test is for scores of 0 and 1")
    only_a = int((a[valid] > b[valid]).sum())
    only_b = int((a[valid] < b[valid]).sum())
    if only_a + only_b == 0:
        return 0, 0, 1.0
    return only_a, only_b, float(stats.binomtest(only_a, only_a + only_b, 0.5).pvalue)


def holm(p: Sequence[float]) -> list[float]:
    """p-values corrected for their number (Holm 1979), in the order given; nan stays nan, uncounted."""
    values = np.asarray(p, dtype=np.float64)
    corrected = np.full(len(values), np.nan)
    known = np.flatnonzero(~np.isnan(values))
    order = known[np.argsort(values[known], kind="stable")]
    steps = values[order] * np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return [float(value) for value in corrected]

"""Significance tests of a value against chance and against another run, which respect clusters.

Every p-value except McNemar's counts an image (or pair, or circular group) as one piece of evidence, however many
questions are asked about it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special  # type: ignore[import-untyped,unused-ignore]

from mllm_eval.stats.bootstrap import DRAWS, Interval, distribution, interval, widened
from mllm_eval.stats.estimator import Floats, Units

FLIPS = 100_000
_CELLS = 8_000_000


def above_chance(units: Units, chance: float) -> float:
    """One-sided p-value that the value is above `chance` (same scale): cluster-robust t-test.

    The standard error is that of the delta method over clusters, with clusters minus layers degrees of freedom. For a
    plain mean this is the cluster-robust t-test of Liang & Zeger (1986). If nothing varies, the p-value is the
    probability of as good a result if each cluster is right with the probability of the chance level.
    """
    if units.freedom < 1 or not np.isfinite(units.value):
        return float("nan")
    gain, error = units.value - chance, units.error
    if error > 0:
        return float(special.stdtr(units.freedom, -gain / error))
    top = float(units.weight.sum())
    return float((chance / top) ** len(units.clusters)) if gain > 0 else 1.0


def above_other(a: Units, b: Units) -> float:
    """One-sided p-value that a is above b on the same valid samples: paired cluster-robust t-test.

    If nothing varies, the p-value is that of a sign test with one fair coin per cluster. Raises ValueError if the
    valid samples differ.
    """
    gap = a.minus(b)
    if gap.error > 0 or gap.freedom < 1 or not np.isfinite(gap.value):
        return above_chance(gap, 0.0)
    return float(0.5 ** len(gap.clusters)) if gap.value > 0 else 1.0


def effects(a: Units, b: Units) -> Floats:
    """[C] contribution of each cluster to the difference a - b. Raises ValueError if the valid samples differ."""
    if a.clusters != b.clusters or not np.array_equal(a.denominator, b.denominator):
        raise ValueError("a paired test needs the same valid samples on both sides")
    total = a.denominator.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(((a.numerator - b.numerator) * a.weight / total).sum(1))


def flipped(effect: Floats, flips: int = FLIPS, seed: int = 0) -> Floats:
    """[flips] differences if a and b are exchanged at random on each cluster: random signs of effect [C].

    Random signs of k effects of equal size sum to that size times 2 * Binomial(k, 1/2) - k. Equal effects, which are
    the rule for right and wrong answers, therefore cost only one draw together.
    """
    rng = np.random.default_rng(seed)
    sizes, counts = np.unique(np.round(np.abs(effect[effect != 0]), 9), return_counts=True)
    out = np.zeros(flips)
    for size, count in zip(sizes[counts > 1], counts[counts > 1], strict=True):
        out += size * (2.0 * rng.binomial(count, 0.5, flips) - count)
    single = sizes[counts == 1].astype(np.float32)
    step = max(1, _CELLS // max(1, len(single)))
    for start in range(0, flips if len(single) else 0, step):
        rows = min(step, flips - start)
        bits = np.unpackbits(rng.integers(0, 256, size=(rows, -(-len(single) // 8)), dtype=np.uint8), axis=1)
        # A sum with random signs is the total minus twice the sum of the negated part.
        out[start : start + rows] += single.sum() - 2.0 * (bits[:, : len(single)].astype(np.float32) @ single)
    return out


def two_sided(observed: float, null: Floats) -> float:
    """Two-sided p-value of `observed` under a null distribution. The observed one is included, so it is never 0."""
    close = 1e-5 * max(1.0, abs(observed))  # float32 sums of equal effects differ in their last digits
    return float((1 + (np.abs(null) >= abs(observed) - close).sum()) / (len(null) + 1))


@dataclass(frozen=True, slots=True)
class Paired:
    """Two runs on the same samples: the difference a - b, and the draws from which categories are combined.

    units: (units, weight) of the benchmark differences whose sum this is.
    """

    difference: Interval
    p: float
    draws: Floats
    null: Floats
    units: tuple[tuple[Units, float], ...]


def paired(a: Units, b: Units, seed: int = 0, draws: Floats | int = DRAWS, flips: int = FLIPS) -> Paired:
    """Cluster bootstrap interval and permutation p-value of a - b.

    draws: number of draws, or the differences [draws] of two paired bootstraps. Raises ValueError if the valid samples
    differ.
    """
    if isinstance(draws, int):
        boot = distribution([a, b], draws, seed)
        gaps = boot[0] - boot[1]
    else:
        gaps = draws
    null = flipped(effects(a, b), flips, seed + 1)
    return _tested(a.value - b.value, gaps, null, ((a.minus(b), 1.0),))


def _tested(difference: float, draws: Floats, null: Floats, units: tuple[tuple[Units, float], ...]) -> Paired:
    """Interval and p-value of a difference. Both are nan if a part has a single cluster."""
    between = widened(interval(difference, draws), units, floor=-1.0)
    single = any(one.freedom < 1 for one, share in units if share)
    return Paired(between, float("nan") if single else two_sided(difference, null), draws, null, units)


def combined(parts: Sequence[Paired], weights: Sequence[float]) -> Paired:
    """Weighted sum of differences on independently drawn benchmarks, for a category or AVG."""
    draws = np.asarray(sum(w * part.draws for w, part in zip(weights, parts, strict=True)))
    null = np.asarray(sum(w * part.null for w, part in zip(weights, parts, strict=True)))
    difference = float(sum(w * part.difference.value for w, part in zip(weights, parts, strict=True)))
    units = [(one, w * share) for w, part in zip(weights, parts, strict=True) for one, share in part.units]
    return _tested(difference, draws, null, tuple(units))


def mcnemar(a: Floats, b: Floats) -> tuple[int, int, float]:
    """Samples that only a has right, samples that only b has right, and the exact two-sided p-value (McNemar 1947).

    a, b [N]: scores 0 or 1; pairs with nan are left out. Questions are treated as independent, without clusters.
    Raises ValueError for other scores.
    """
    valid = ~(np.isnan(a) | np.isnan(b))
    values = np.concatenate([a[valid], b[valid]])
    if not np.isin(values, (0.0, 1.0)).all():
        raise ValueError("McNemar's test is for scores of 0 and 1")
    only_a = int((a[valid] > b[valid]).sum())
    only_b = int((a[valid] < b[valid]).sum())
    if only_a + only_b == 0:
        return 0, 0, 1.0
    tail = special.bdtr(min(only_a, only_b), only_a + only_b, 0.5)  # half of the two-sided p, by symmetry
    return only_a, only_b, float(min(1.0, 2.0 * tail))


def holm(p: Sequence[float]) -> list[float]:
    """Correct p-values for multiple tests (Holm 1979), in the given order; nan stays nan and is not counted."""
    values = np.asarray(p, dtype=np.float64)
    corrected = np.full(len(values), np.nan)
    known = np.flatnonzero(~np.isnan(values))
    order = known[np.argsort(values[known], kind="stable")]
    steps = values[order] * np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return [float(value) for value in corrected]

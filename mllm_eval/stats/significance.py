"""Is it more than chance, is it more than the other: tests that take the clusters for what they are.

Every p-value here treats an image (or pair, or circular group) as one piece of evidence, however many
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
    """One-sided p-value of the value being above `chance` (same scale): cluster-robust t-test.

    The standard error is the delta method's over clusters, with one degree of freedom lost a layer; for a
    plain mean it is the cluster-robust t-test of Liang & Zeger (1986). Without any variation, the chance of a
    result as good from coin flips at the chance level, one a cluster, is given instead.
    """
    if units.freedom < 1 or not np.isfinite(units.value):
        return float("nan")
    gain, error = units.value - chance, units.error
    if error > 0:
        return float(special.stdtr(units.freedom, -gain / error))
    top = float(units.weight.sum())
    return float((chance / top) ** len(units.clusters)) if gain > 0 else 1.0


def above_other(a: Units, b: Units) -> float:
    """One-sided p-value of a's value being above b's on the same valid samples: paired cluster-robust t-test.

    Without any variation, the chance of as many equal signs from fair coins, one a cluster, is given instead.
    """
    gap = a.minus(b)
    if gap.error > 0 or gap.freedom < 1 or not np.isfinite(gap.value):
        return above_chance(gap, 0.0)
    return float(0.5 ** len(gap.clusters)) if gap.value > 0 else 1.0


def effects(a: Units, b: Units) -> Floats:
    """[C] what each cluster adds to the difference of the values a - b. Same valid samples on both sides."""
    if a.clusters != b.clusters or not np.array_equal(a.denominator, b.denominator):
        raise ValueError("a paired test needs the same valid samples on both sides")
    total = a.denominator.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(((a.numerator - b.numerator) * a.weight / total).sum(1))


def flipped(effect: Floats, flips: int = FLIPS, seed: int = 0) -> Floats:
    """[flips] differences if the names were exchanged at random, cluster by cluster (signs of effect [C]).

    Signs of k effects of one size add up to that size times 2 Binomial(k, 1/2) - k: equal effects, which right
    and wrong answers mostly are, cost one draw together.
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
        # a sum of flipped signs is the whole minus twice the part that was flipped
        out[start : start + rows] += single.sum() - 2.0 * (bits[:, : len(single)].astype(np.float32) @ single)
    return out


def two_sided(observed: float, null: Floats) -> float:
    """p-value of `observed` under a null distribution, the observed arrangement counted in (never 0)."""
    close = 1e-5 * max(1.0, abs(observed))  # float32 sums of equal effects differ in their last digits
    return float((1 + (np.abs(null) >= abs(observed) - close).sum()) / (len(null) + 1))


@dataclass(frozen=True, slots=True)
class Paired:
    """Two runs on the same samples: the difference a - b, and the draws that categories are made of.

    `units` holds, with their weights, the differences that it is the sum of.
    """

    difference: Interval
    p: float
    draws: Floats
    null: Floats
    units: tuple[tuple[Units, float], ...]


def paired(a: Units, b: Units, seed: int = 0, draws: Floats | int = DRAWS, flips: int = FLIPS) -> Paired:
    """Bootstrap interval and permutation p-value of a - b, clustered.

    `draws` is how many to make, or the differences [draws] of two paired bootstraps made already.
    """
    if isinstance(draws, int):
        boot = distribution([a, b], draws, seed)
        gaps = boot[0] - boot[1]
    else:
        gaps = draws
    null = flipped(effects(a, b), flips, seed + 1)
    return _tested(a.value - b.value, gaps, null, ((a.minus(b), 1.0),))


def _tested(difference: float, draws: Floats, null: Floats, units: tuple[tuple[Units, float], ...]) -> Paired:
    """Limits as few clusters bear them; no limits and no p-value (nan) from one cluster."""
    between = widened(interval(difference, draws), units, floor=-1.0)
    single = any(one.freedom < 1 for one, share in units if share)
    return Paired(between, float("nan") if single else two_sided(difference, null), draws, null, units)


def combined(parts: Sequence[Paired], weights: Sequence[float]) -> Paired:
    """A weighted sum of differences on benchmarks drawn independently: a category, or AVG."""
    draws = np.asarray(sum(w * part.draws for w, part in zip(weights, parts, strict=True)))
    null = np.asarray(sum(w * part.null for w, part in zip(weights, parts, strict=True)))
    difference = float(sum(w * part.difference.value for w, part in zip(weights, parts, strict=True)))
    units = [(one, w * share) for w, part in zip(weights, parts, strict=True) for one, share in part.units]
    return _tested(difference, draws, null, tuple(units))


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
    tail = special.bdtr(min(only_a, only_b), only_a + only_b, 0.5)  # half of the two-sided p, by symmetry
    return only_a, only_b, float(min(1.0, 2.0 * tail))


def holm(p: Sequence[float]) -> list[float]:
    """p-values corrected for their number (Holm 1979), in the order given; nan stays nan, uncounted."""
    values = np.asarray(p, dtype=np.float64)
    corrected = np.full(len(values), np.nan)
    known = np.flatnonzero(~np.isnan(values))
    order = known[np.argsort(values[known], kind="stable")]
    steps = values[order] * np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return [float(value) for value in corrected]

"""Confidence intervals by the cluster bootstrap, computed as matrix products.

Whole clusters are drawn within their layer. Of n clusters, n - 1 are drawn and weighted by n / (n - 1). This makes the
variance of a mean unbiased even if a layer has few clusters (Rao & Wu 1988, "Resampling inference with complex survey
data").
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special  # type: ignore[import-untyped,unused-ignore]

from mllm_eval.stats.estimator import Floats, Ints, Units

DRAWS = 10_000
CELLS = 4_000_000  # weights held at a time: 16 MB of float32


@dataclass(frozen=True, slots=True)
class Interval:
    """A value with its confidence limits, on the value's own scale."""

    value: float
    low: float
    high: float


def seed_of(name: str) -> int:
    """A seed that depends only on the name, so that all runs draw the same images of a benchmark."""
    return zlib.crc32(name.encode())


def draw_weights(layer: Ints, draws: int, seed: int) -> Iterator[npt.NDArray[np.float32]]:
    """Yield the weight of each cluster in each draw: float32 chunks [some draws, clusters], `draws` rows in total.

    layer [clusters]: clusters are drawn from their own layer. Of a layer's n clusters, n - 1 are drawn with
    replacement and weighted by n / (n - 1). A cluster alone in its layer always has weight 1.
    """
    rng = np.random.default_rng(seed)
    places = [np.flatnonzero(layer == part) for part in np.unique(layer)]
    step = max(1, CELLS // max(1, len(layer)))
    for start in range(0, draws, step):
        rows = min(step, draws - start)
        weights = np.ones((rows, len(layer)), dtype=np.float32)
        for place in places:
            n = len(place)
            if n < 2:
                continue
            drawn = rng.integers(0, n, size=(rows, n - 1), dtype=np.int32)
            drawn += (np.arange(rows, dtype=np.int32) * n)[:, None]
            counts = np.bincount(drawn.reshape(-1), minlength=rows * n).reshape(rows, n)
            weights[:, place] = counts * np.float32(n / (n - 1))
        yield weights


def distribution(runs: Sequence[Units], draws: int = DRAWS, seed: int = 0) -> Floats:
    """[R, draws] bootstrap values of R runs with the same clusters. Draw i uses the same clusters for all runs.

    The draws depend only on the clusters and the seed, so runs in separate calls are paired as well. A draw without a
    valid sample of a term is nan. Raises ValueError if the runs have different clusters.
    """
    first = runs[0]
    if any(run.clusters != first.clusters for run in runs):
        raise ValueError("runs with different clusters cannot be drawn together")
    terms = len(first.weight)
    columns = np.concatenate([np.concatenate([r.numerator, r.denominator], axis=1) for r in runs], axis=1)
    columns = columns.astype(np.float32)
    out = np.empty((len(runs), draws))
    at = 0
    for weights in draw_weights(first.layer, draws, seed):
        sums = (weights @ columns).astype(np.float64).reshape(len(weights), len(runs), 2, terms)
        with np.errstate(invalid="ignore", divide="ignore"):
            out[:, at : at + len(weights)] = (sums[:, :, 0] / sums[:, :, 1] @ first.weight).T
        at += len(weights)
    return out


def interval(value: float, draws: Floats, level: float = 0.95) -> Interval:
    """Percentile interval of a bootstrap distribution [draws]; limits are nan if all draws are nan."""
    tail = 50.0 * (1.0 - level)
    if not np.isfinite(draws).any():
        return Interval(value, float("nan"), float("nan"))
    low, high = np.nanpercentile(draws, [tail, 100.0 - tail])
    return Interval(value, float(low), float(high))


def satterthwaite(variances: Sequence[float], freedoms: Sequence[float]) -> float:
    """Degrees of freedom of a sum of independent variances (Satterthwaite 1946); inf if all variances are 0.

    0 if one of them has less than one degree of freedom, because then the variance of the sum is unknown.
    """
    if any(one < 1 for one in freedoms):
        return 0.0
    spread = sum(own**2 / one for own, one in zip(variances, freedoms, strict=True))
    return float(sum(variances) ** 2 / spread) if spread else float("inf")


def t_ratio(parts: Sequence[tuple[Units, float]], level: float = 0.95) -> float:
    """Ratio of the interval widths by Student's t and by the normal, for a weighted sum of values.

    Degrees of freedom come from `satterthwaite` over the parts that vary. 1 if no part varies, nan if one of them
    has a single cluster.
    """
    varied = [(units, share) for units, share in parts if share and not (units.freedom and units.still)]
    freedom = satterthwaite([(share * one.error) ** 2 for one, share in varied], [one.freedom for one, _ in varied])
    tail = 0.5 + level / 2.0
    if freedom < 1:
        return float("nan")
    return float(special.stdtrit(freedom, tail) / special.ndtri(tail)) if np.isfinite(freedom) else 1.0


def widened(
    percentile: Interval, parts: Sequence[tuple[Units, float]], floor: float = 0.0, level: float = 0.95
) -> Interval:
    """Widen a percentile interval for few clusters: its limits move away from the value by the factor `t_ratio`.

    parts: (units, weight) of the values in the sum. floor: smallest possible value as a multiple of the largest, 0 for
    a value, -1 for a difference; limits stay in this range. They are nan if a part has a single cluster, which shows
    no variation between clusters.

    A part without any variation (all wrong, all right, the same on every cluster) has a bootstrap interval of one
    point, which would claim certainty. It gets the limits of `_unvaried`. The squared distances between value and
    limit are summed over the parts (MOVER, Zou & Donner 2008).
    """
    if any(units.freedom < 1 for units, share in parts if share):
        return Interval(percentile.value, float("nan"), float("nan"))
    ratio, top = t_ratio(parts, level), sum(share * float(units.weight.sum()) for units, share in parts)
    low, high = ((percentile.value - percentile.low) * ratio, (percentile.high - percentile.value) * ratio)
    still = [_unvaried(units, share, floor, level) for units, share in parts if share and units.still]
    if len(still) == len(parts):
        low = high = 0.0
    if still:
        low, high = (
            float(np.hypot(one, np.linalg.norm(more)))
            for one, more in zip((low, high), zip(*still, strict=True), strict=True)
        )
    return Interval(percentile.value, max(percentile.value - low, floor * top), min(percentile.value + high, top))


def _unvaried(units: Units, share: float, floor: float, level: float) -> tuple[float, float]:
    """Distances from a value that is the same on every cluster to its lower and upper limit, times its weight.

    The limit is that of Clopper & Pearson (1934) with one trial per cluster: the largest share of differing clusters
    that is compatible with having seen none, ``1 - ((1 - level) / 2) ** (1 / n)``. n is the smallest number of
    clusters in a layer.
    """
    top = float(units.weight.sum())
    fewest = int(np.unique(units.layer[units.answered], return_counts=True)[1].min())
    slack = (top - floor * abs(units.value)) * (1.0 - ((1.0 - level) / 2.0) ** (1.0 / fewest))
    return share * min(slack, units.value - floor * top), share * min(slack, top - units.value)


def value_interval(units: Units, draws: Floats, level: float = 0.95) -> Interval:
    """Confidence interval of a value from its draws [draws]: percentiles, then `widened`; nan for a single cluster."""
    return widened(interval(units.value, draws, level), [(units, 1.0)], level=level)

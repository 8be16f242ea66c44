"""Intervals by the cluster bootstrap, as products of matrices.

Clusters are drawn whole and within their layer. From n clusters n - 1 are drawn and weighted by n / (n - 1),
which makes the variance of a mean unbiased where a layer has few clusters (Rao & Wu 1988, "Resampling
inference with complex survey data").
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
    """A value with its confidence limits, all on the value's own scale."""

    value: float
    low: float
    high: float


def seed_of(name: str) -> int:
    """A seed that depends on the name only: two runs draw the same images of the same benchmark."""
    return zlib.crc32(name.encode())


def draw_weights(layer: Ints, draws: int, seed: int) -> Iterator[npt.NDArray[np.float32]]:
    """How much each cluster counts in each draw: float32 chunks [some draws, clusters], `draws` rows in all.

    `layer` [clusters] says which clusters are drawn from the same ones. n - 1 of a layer's n clusters are drawn with
    replacement and weigh n / (n - 1); one that is alone in its layer always counts once.
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
    """[R, draws] bootstrap values of R runs that share their clusters; draw i is the same images for all.

    Since the draws depend only on the clusters and the seed, runs given in separate calls stay paired too.
    A draw that holds no valid sample of a term is nan.
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
    """Percentile interval of a bootstrap distribution [draws]."""
    tail = 50.0 * (1.0 - level)
    if not np.isfinite(draws).any():
        return Interval(value, float("nan"), float("nan"))
    low, high = np.nanpercentile(draws, [tail, 100.0 - tail])
    return Interval(value, float(low), float(high))


def satterthwaite(variances: Sequence[float], freedoms: Sequence[float]) -> float:
    """Degrees of freedom of a sum of independent variances (Satterthwaite 1946); inf where none of them varies.

    0 where one of them has none: a variance that can't be known leaves the sum unknown.
    """
    if any(one < 1 for one in freedoms):
        return 0.0
    spread = sum(own**2 / one for own, one in zip(variances, freedoms, strict=True))
    return float(sum(variances) ** 2 / spread) if spread else float("inf")


def t_ratio(parts: Sequence[tuple[Units, float]], level: float = 0.95) -> float:
    """How much wider Student's t makes an interval of the sum of values times weights than the normal does.

    Degrees of freedom by `satterthwaite` from each part that varies; 1 where none does, nan where one of them has a
    single cluster.
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
    """The interval as few clusters bear it: limits moved from the value by `t_ratio`, within what the value can be.

    `floor` times the top is the least that the value can be: 0 for a value, -1 for a difference. A part of which one
    cluster is all there is says nothing of how clusters differ: the limits are nan then.

    A part in which nothing varies (all wrong, all right, as much on every cluster) has a point for a bootstrap, which
    would claim certainty. Its own limits are those of `_unvaried`, and the squares of the distances of value and limit
    add up over the parts (MOVER, Zou & Donner 2008).
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
    """How far below and above a value that is the same on every cluster, times its weight, the truth may be.

    The limit of Clopper & Pearson (1934) with one trial a cluster, ``1 - ((1 - level) / 2) ** (1 / n)``, n being the
    fewest clusters of a layer: that share of other clusters may be otherwise, and none was seen.
    """
    top = float(units.weight.sum())
    fewest = int(np.unique(units.layer[units.answered], return_counts=True)[1].min())
    slack = (top - floor * abs(units.value)) * (1.0 - ((1.0 - level) / 2.0) ** (1.0 / fewest))
    return share * min(slack, units.value - floor * top), share * min(slack, top - units.value)


def value_interval(units: Units, draws: Floats, level: float = 0.95) -> Interval:
    """Interval of a value from its draws: percentiles, `widened`; nan for a single cluster."""
    return widened(interval(units.value, draws, level), [(units, 1.0)], level=level)

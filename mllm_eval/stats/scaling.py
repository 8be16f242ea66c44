"""Score as a function of the logarithm of a size: slope per doubling, its band, and where two families cross.

The fit is least squares of y on log2(x). With the four or five sizes of a family, the plain bootstrap of residuals is
much too narrow (a nominal 95 % interval covers 81 to 86 %). Residuals are therefore divided by sqrt(1 - leverage) and
centred (Davison & Hinkley 1997, "Bootstrap Methods and their Application", 6.2.3), and deviations are widened by the
ratio of Student's t quantile at n - 2 degrees of freedom to the normal quantile.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special  # type: ignore[import-untyped,unused-ignore]

from mllm_eval.stats.bootstrap import DRAWS, Interval
from mllm_eval.stats.estimator import Floats


@dataclass(frozen=True, slots=True)
class Fit:
    """y = intercept + slope * log2(x): `slope` is the gain per doubling of x, `intercept` the value at x = 1.

    x, y [n]       the points, with x itself and not its logarithm
    r2             share of the variance of y that the line explains; nan if y does not vary
    lines [D, 2]   bootstrap draws of (intercept, slope), around the fit; nan with fewer than three points
    """

    x: Floats
    y: Floats
    slope: Interval
    intercept: Interval
    r2: float
    lines: Floats

    def at(self, x: npt.ArrayLike) -> Floats:
        """[m] values of the line at x [m]."""
        return np.asarray(self.intercept.value + self.slope.value * np.log2(np.asarray(x, dtype=np.float64)))

    def band(self, x: npt.ArrayLike, level: float = 0.95) -> Floats:
        """[2, m] lower and upper confidence limit of the line (not of a new point) at x [m]."""
        where = np.log2(np.asarray(x, dtype=np.float64))
        return _limits(self.lines[:, :1] + self.lines[:, 1:] * where, level)


@dataclass(frozen=True, slots=True)
class Crossing:
    """Where two lines cross, on the scale of x. share: share of the bootstrap draws that cross within the range of
    `crossing`. low, high: limits over these draws; nan if the share is below the confidence level."""

    x: float
    low: float
    high: float
    share: float


def log_linear(x: Sequence[float], y: Sequence[float], draws: int = DRAWS, seed: int = 0, level: float = 0.95) -> Fit:
    """Least squares of y on log2(x), with bootstrap intervals.

    Raises:
        ValueError: fewer than two different sizes, a size that is not positive, different lengths, or nan.
    """
    sizes, values = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if sizes.shape != values.shape or len(np.unique(sizes)) < 2:
        raise ValueError("a line needs two sizes at least, and a value for each")
    if not (np.isfinite(sizes).all() and np.isfinite(values).all() and (sizes > 0).all()):
        raise ValueError("sizes must be positive, sizes and values must be numbers")
    n = len(sizes)
    design = np.stack([np.ones(n), np.log2(sizes)], axis=1)
    solve = np.linalg.pinv(design)  # [2, n]
    best = solve @ values
    residual = values - design @ best
    total = float(((values - values.mean()) ** 2).sum())
    r2 = 1.0 - float((residual**2).sum()) / total if total > 0 else math.nan
    lines = np.full((draws, 2), np.nan)
    if n > 2:
        leverage = np.einsum("ij,ji->i", design, solve)
        fair = np.divide(residual, np.sqrt(1.0 - leverage), out=np.zeros(n), where=leverage < 1.0 - 1e-12)
        fair -= fair.mean()
        tail = 0.5 + level / 2.0
        wider = float(special.stdtrit(n - 2, tail) / special.ndtri(tail))
        drawn = fair[np.random.default_rng(seed).integers(0, n, size=(draws, n))]
        lines = best + wider * drawn @ solve.T
    limits = _limits(lines, level)
    return Fit(
        sizes,
        values,
        Interval(float(best[1]), float(limits[0, 1]), float(limits[1, 1])),
        Interval(float(best[0]), float(limits[0, 0]), float(limits[1, 0])),
        r2,
        lines,
    )


def crossing(a: Fit, b: Fit, within: tuple[float, float] = (1e-3, 1e3), level: float = 0.95) -> Crossing:
    """Where the lines of a and b cross. A crossing at an x outside `within` counts as none."""

    def meet(intercept: Floats, slope: Floats) -> Floats:
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            return np.asarray(np.exp2(-intercept / slope))

    gap = np.array([[a.intercept.value - b.intercept.value, a.slope.value - b.slope.value]])
    x = float(meet(gap[:, 0], gap[:, 1])[0])
    count = min(len(a.lines), len(b.lines))
    gaps = a.lines[:count] - b.lines[:count]
    drawn = meet(gaps[:, 0], gaps[:, 1])
    good = np.isfinite(drawn) & (drawn >= within[0]) & (drawn <= within[1])
    share = float(good.mean()) if count else 0.0
    low = high = math.nan
    if share >= level:
        low, high = _limits(drawn[good][:, None], level)[:, 0]
    return Crossing(x if within[0] <= x <= within[1] else math.nan, float(low), float(high), share)


def _limits(values: Floats, level: float) -> Floats:
    if not len(values) or np.isnan(values).all():
        return np.full((2, values.shape[1]), np.nan)
    tail = 50.0 * (1.0 - level)
    return np.asarray(np.percentile(values, [tail, 100.0 - tail], axis=0))

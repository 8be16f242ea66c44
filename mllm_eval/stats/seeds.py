"""Several seeds of one run: what training again changes, and what other questions would change.

The seeds answer the same questions. The variance between their values is that of training; the variance within
is that of drawing questions. The mean over S seeds has variance between / S + (that of the mean's own draws), and
degrees of freedom by Satterthwaite (1946). The interaction of seed and question is in both terms, which makes the
interval a little too wide, not too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special  # type: ignore[import-untyped,unused-ignore]

from mllm_eval.stats.bootstrap import Interval, satterthwaite
from mllm_eval.stats.estimator import Floats


@dataclass(frozen=True, slots=True)
class Scale:
    """The least and the most that a value can be; no interval reaches beyond."""

    low: float = -math.inf
    high: float = math.inf

    def around(self, value: float, reach: float) -> Interval:
        """A value with limits `reach` to each side, as far as the scale goes; nan stays nan."""
        return Interval(value, max(value - reach, self.low), min(value + reach, self.high))

    def minus(self, other: Scale) -> Scale:
        """That of the difference of a value on this scale and one on the other."""
        return Scale(self.low - other.high, self.high - other.low)


UNBOUNDED = Scale()


@dataclass(frozen=True, slots=True)
class Seeds:
    """A value over seeds, all on the value's own scale; nan is unknown.

    mean       with its 95 % interval, over seeds and questions
    between    standard deviation of the seeds' values: what training once more changes
    within     standard deviation of one seed's value over draws of questions
    error      standard error of the mean; `freedom` its degrees of freedom
    scale      the least and the most that the value can be
    """

    values: tuple[float, ...]
    mean: Interval
    between: float
    within: float
    error: float
    freedom: float
    scale: Scale = UNBOUNDED


def over_seeds(
    values: Sequence[float], draws: Sequence[Floats], freedom: float = math.inf, scale: Scale = UNBOUNDED
) -> Seeds:
    """The spread of S seeds' values, given the paired bootstrap draws [D] of each.

    `freedom`: degrees of freedom of the questions' variance, clusters minus layers. Without any, as from one image,
    what other questions would change is unknown, and so are the limits. With two seeds Student's t has one degree of
    freedom and reaches far: the limits stay on the value's `scale`.

    Raises:
        ValueError: fewer than two seeds.
    """
    if len(values) < 2 or len(values) != len(draws):
        raise ValueError("a spread over seeds needs two seeds at least, and the draws of each")
    between = float(np.std(values, ddof=1))
    if freedom < 1:
        mean = float(np.mean(values))
        return Seeds(tuple(values), scale.around(mean, math.nan), between, math.nan, math.nan, 0.0, scale)
    within = math.sqrt(float(np.mean([np.nanvar(one, ddof=1) for one in draws])))
    questions = float(np.nanvar(np.mean(draws, axis=0), ddof=1))
    training = between**2 / len(values)
    error = math.sqrt(training + questions)
    parts = training**2 / (len(values) - 1) + (questions**2 / freedom if math.isfinite(freedom) else 0.0)
    degrees = error**4 / parts if parts > 0 else math.inf
    mean = float(np.mean(values))
    limits = scale.around(mean, error * t_quantile(degrees))
    return Seeds(tuple(values), limits, between, within, error, degrees, scale)


@dataclass(frozen=True, slots=True)
class SeedGap:
    """The difference of two means over seeds. `noise`: 95 % limit of what exchanging the seeds alone would give
    between one seed of each; a difference below it says nothing of the encoders. Both on the scale of a difference."""

    difference: Interval
    p: float
    noise: float


def gap_over_seeds(a: Seeds, b: Seeds, draws: Floats, freedom: float = math.inf) -> SeedGap:
    """a - b, with training as the seeds show it and questions as the paired draws [D] of the means' difference do.

    Welch's test with the questions' variance added; degrees of freedom by Satterthwaite. `freedom`: those of the
    questions' variance, as `over_seeds` takes them; without any, limits and p are nan.
    """
    parts = [(side.between**2 / len(side.values), float(len(side.values) - 1)) for side in (a, b)]
    count = sum(count for _, count in parts)
    pooled = math.sqrt(sum(side.between**2 * (len(side.values) - 1) for side in (a, b)) / count)
    scale = a.scale.minus(b.scale)
    noise = min(pooled * math.sqrt(2.0) * t_quantile(count), scale.high)
    difference = a.mean.value - b.mean.value
    if freedom < 1:
        return SeedGap(scale.around(difference, math.nan), math.nan, noise)
    parts.append((float(np.nanvar(draws, ddof=1)), freedom))
    degrees = satterthwaite([part for part, _ in parts], [count for _, count in parts])
    error = math.sqrt(sum(part for part, _ in parts))
    limits = scale.around(difference, error * t_quantile(degrees))
    p = 1.0 if error == 0 and difference == 0 else 0.0 if error == 0 else _two_sided(abs(difference) / error, degrees)
    return SeedGap(limits, p, noise)


def t_quantile(freedom: float, level: float = 0.95) -> float:
    """How many standard errors an interval of `level` reaches to each side; the normal's for infinite freedom."""
    tail = 0.5 + level / 2.0
    return float(special.ndtri(tail) if math.isinf(freedom) else special.stdtrit(freedom, tail))


def _two_sided(t: float, freedom: float) -> float:
    return float(2.0 * (special.ndtr(-t) if math.isinf(freedom) else special.stdtr(freedom, -t)))

"""Several seeds of one run: separates the variance of training from that of the choice of questions.

All seeds answer the same questions. The variance between their values is that of training, and the bootstrap variance
is that of drawing questions. The mean over S seeds has the variance between ** 2 / S + (that of the mean's own draws),
with degrees of freedom by Satterthwaite (1946). The interaction of seed and question is counted in both terms, which
makes the interval slightly too wide.
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
    """The smallest and largest possible value. No interval reaches beyond."""

    low: float = -math.inf
    high: float = math.inf

    def around(self, value: float, reach: float) -> Interval:
        """A value with limits at the distance `reach`, cut to the scale; nan stays nan."""
        return Interval(value, max(value - reach, self.low), min(value + reach, self.high))

    def minus(self, other: Scale) -> Scale:
        """The scale of the difference of a value on this scale and a value on the other."""
        return Scale(self.low - other.high, self.high - other.low)


UNBOUNDED = Scale()


@dataclass(frozen=True, slots=True)
class Seeds:
    """A value over several seeds, everything on the value's own scale; nan means unknown.

    mean       with its 95 % interval, over seeds and questions
    between    standard deviation of the seeds' values: the effect of training again
    within     standard deviation of one seed's value over draws of questions
    error      standard error of the mean; `freedom`: its degrees of freedom
    scale      the smallest and largest possible value
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
    """Mean and spread of S seeds' values. draws: for each seed its bootstrap draws [D], paired over seeds.

    freedom: degrees of freedom of the questions' variance, clusters minus layers. Below 1, as with one image, the
    variance over questions is unknown, and so are the limits. With two seeds Student's t has one degree of
    freedom and wide limits, which are cut to the value's `scale`.

    Raises:
        ValueError: fewer than two seeds, or not one array of draws per seed.
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
    """The difference of two means over seeds. noise: 95 % limit of the difference between two runs that differ only by
    seed; a smaller difference is no evidence about the encoders. Both on the scale of a difference."""

    difference: Interval
    p: float
    noise: float


def gap_over_seeds(a: Seeds, b: Seeds, draws: Floats, freedom: float = math.inf) -> SeedGap:
    """a - b, with the variance of training from the seeds and that of questions from the paired draws [D] of a - b.

    Welch's t-test with the questions' variance added, and degrees of freedom by Satterthwaite. freedom: degrees of
    freedom of the questions' variance, as for `over_seeds`; below 1, limits and p are nan.
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
    """Half the width of an interval of `level`, in standard errors; the normal quantile for infinite freedom."""
    tail = 0.5 + level / 2.0
    return float(special.ndtri(tail) if math.isinf(freedom) else special.stdtrit(freedom, tail))


def _two_sided(t: float, freedom: float) -> float:
    return float(2.0 * (special.ndtr(-t) if math.isinf(freedom) else special.stdtr(freedom, -t)))

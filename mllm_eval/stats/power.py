"""How many questions, or how many seeds, a difference needs to be seen.

Questions: the test of a paired difference is near enough a z-test over clusters, so that the standard error goes
with one over the root of their number. Seeds: the two-sample t-test, with the noncentral t (Cohen 1988).
"""

from __future__ import annotations

import math
from typing import Any

from scipy import special  # type: ignore[import-untyped,unused-ignore]

from mllm_eval.stats.estimator import Units

ALPHA, POWER = 0.05, 0.8
MOST_SEEDS = 10_000


def paired_error(a: Units, b: Units) -> float:
    """Standard error of the difference of two runs on the same valid samples, from the clusters' effects within layers.

    nan where the clusters don't show how they differ: one alone, or the same difference on each.
    """
    gap = a.minus(b)
    return gap.error if gap.freedom and not gap.still else math.nan


def detectable(error: float, alpha: float = ALPHA, power: float = POWER) -> float:
    """The smallest difference that a two-sided test at `alpha` finds with probability `power`, given the
    difference's standard error."""
    return error * float(special.ndtri(1.0 - alpha / 2.0) + special.ndtri(power))


def questions_needed(
    difference: float, error: float, questions: int, alpha: float = ALPHA, power: float = POWER
) -> float:
    """How many questions a difference needs, from the standard error that `questions` of them gave.

    The new questions must be such as these: asked in the same number of an image, as hard, as correlated. inf for
    a difference of 0, nan for an unknown error.
    """
    return questions * (detectable(error, alpha, power) / abs(difference)) ** 2 if difference else math.inf


def seeds_needed(difference: float, between: float, alpha: float = ALPHA, power: float = POWER) -> int | None:
    """How many seeds of each encoder a difference needs where one seed's value varies by `between` (a standard
    deviation); 1 where it does not vary, None where more than `MOST_SEEDS` would be needed."""
    if between == 0:
        return 1
    if not difference:
        return None
    low, high = 1, 2
    while seed_power(difference, between, high, alpha) < power:
        low, high = high, 2 * high
        if high > MOST_SEEDS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if seed_power(difference, between, middle, alpha) >= power else (middle, high)
    return high


def seed_power(difference: float, between: float, seeds: int, alpha: float = ALPHA) -> float:
    """Probability that a two-sided two-sample t-test of `seeds` runs each finds the difference; 0 for one run."""
    if seeds < 2:
        return 0.0
    freedom = 2 * (seeds - 1)
    shift = abs(difference) / between * math.sqrt(seeds / 2.0)
    edge = float(special.stdtrit(freedom, 1.0 - alpha / 2.0))
    inside = _nct(freedom, shift, edge) - _nct(freedom, shift, -edge)
    return 1.0 - inside


def _nct(freedom: int, shift: float, edge: float) -> float:
    chance: Any = special.nctdtr(freedom, shift, edge)
    # far out the series gives up; there the answer is 0 or 1
    return float(chance) if chance == chance else float(edge > shift)

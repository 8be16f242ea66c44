"""Numbers of questions or seeds that are needed to detect a difference.

Questions: the test of a paired difference is approximated by a z-test over clusters, whose standard error falls with
the root of their number. Seeds: the two-sample t-test, by the noncentral t distribution (Cohen 1988).
"""

from __future__ import annotations

import math
from typing import Any

from scipy import special  # type: ignore[import-untyped,unused-ignore]

from mllm_eval.stats.estimator import Units

ALPHA, POWER = 0.05, 0.8
MOST_SEEDS = 10_000


def paired_error(a: Units, b: Units) -> float:
    """Standard error of the difference of two runs on the same valid samples, from cluster effects within layers.

    nan if the clusters show no variation: only one cluster, or the same difference on each.
    """
    gap = a.minus(b)
    return gap.error if gap.freedom and not gap.still else math.nan


def detectable(error: float, alpha: float = ALPHA, power: float = POWER) -> float:
    """The smallest difference that a two-sided test at level `alpha` finds with probability `power`. error: the
    difference's standard error, in the same unit."""
    return error * float(special.ndtri(1.0 - alpha / 2.0) + special.ndtri(power))


def questions_needed(
    difference: float, error: float, questions: int, alpha: float = ALPHA, power: float = POWER
) -> float:
    """Number of questions that a difference needs, from the standard error that `questions` questions gave.

    It assumes that further questions are alike: as many per image, as hard, as correlated. inf for a difference of 0,
    nan for an unknown error.
    """
    return questions * (detectable(error, alpha, power) / abs(difference)) ** 2 if difference else math.inf


def seeds_needed(difference: float, between: float, alpha: float = ALPHA, power: float = POWER) -> int | None:
    """Number of seeds per encoder that a difference needs. between: standard deviation of one seed's value. 1 if it
    is 0; None if more than `MOST_SEEDS` would be needed."""
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
    """Probability that a two-sided two-sample t-test with `seeds` runs each finds the difference; 0 for one run."""
    if seeds < 2:
        return 0.0
    freedom = 2 * (seeds - 1)
    shift = abs(difference) / between * math.sqrt(seeds / 2.0)
    edge = float(special.stdtrit(freedom, 1.0 - alpha / 2.0))
    inside = _nct(freedom, shift, edge) - _nct(freedom, shift, -edge)
    return 1.0 - inside


def _nct(freedom: int, shift: float, edge: float) -> float:
    chance: Any = special.nctdtr(freedom, shift, edge)
    # Far from the centre the series returns nan. The probability is 0 or 1 there.
    return float(chance) if chance == chance else float(edge > shift)

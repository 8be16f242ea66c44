"""The agreement of decisions with labels, and shares with their intervals, from counts alone. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from mllm_eval.filtering.tally import BINS, Tally

# Number of bins of the calibration.
TENTHS = 10


class Proportion(NamedTuple):
    """A share in [0, 1] of `of` items, with its 95 % interval by Wilson (1927). `value` is None without items."""

    value: float | None
    low: float
    high: float
    of: int


def share(part: int, count: int) -> Proportion:
    """The share `part` / `count`, as of a random sample."""
    if not count:
        return Proportion(None, 0.0, 1.0, 0)
    from scipy.stats import binomtest

    limits = binomtest(part, count).proportion_ci(0.95, method="wilson")
    return Proportion(part / count, float(limits.low), float(limits.high), count)


class Tenth(NamedTuple):
    """The labelled images with p(yes) from `low` to `high`: their mean p(yes), and the share that is labelled yes."""

    low: float
    high: float
    p_yes: float
    true: Proportion


@dataclass(frozen=True)
class Agreement:
    """How well the decisions agree with the labels, over images that have one.

    precision  share of kept images that are labelled yes
    recall     share of images labelled yes that are kept
    accuracy   share of images that are decided as labelled
    true       share of images that are labelled yes
    tenths     the calibration, in bins of equal width
    error      expected calibration error: the mean over images of |mean p(yes) - share labelled yes| of their bin
               (Naeini et al. 2015)
    area       area under the ROC curve, with p(yes) in bins of one hundredth whose images count as ties; None if all
               labels are the same
    """

    precision: Proportion
    recall: Proportion
    accuracy: Proportion
    true: Proportion
    tenths: tuple[Tenth, ...]
    error: float
    area: float | None


def agreement(tally: Tally) -> Agreement | None:
    """The agreement of decisions with labels; None if no judged image has a label."""
    count = sum(tally.labelled)
    if not count:
        return None
    true = sum(tally.true)
    right = tally.right_kept + tally.right_dropped
    tenths, error = [], 0.0
    for place in range(TENTHS):
        own = slice(place * BINS // TENTHS, (place + 1) * BINS // TENTHS)
        here = sum(tally.labelled[own])
        if here:
            mean, share_true = sum(tally.total[own]) / here, share(sum(tally.true[own]), here)
            tenths.append(Tenth(place / TENTHS, (place + 1) / TENTHS, mean, share_true))
            error += here * abs(mean - sum(tally.true[own]) / here)
    return Agreement(
        precision=share(tally.right_kept, tally.right_kept + tally.wrong_kept),
        recall=share(tally.right_kept, true),
        accuracy=share(right, count),
        true=share(true, count),
        tenths=tuple(tenths),
        error=error / count,
        area=_area(tally, true, count - true),
    )


def _area(tally: Tally, true: int, false: int) -> float | None:
    if not true or not false:
        return None
    below = ordered = 0.0
    for all_, own in zip(tally.labelled, tally.true, strict=True):
        ordered += own * (below + (all_ - own) / 2)
        below += all_ - own
    return ordered / (true * false)

"""Decisions against labels, and shares with their intervals: counts in, numbers out. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from mllm_eval.filtering.tally import BINS, Tally

# Bins of the calibration.
TENTHS = 10


class Share(NamedTuple):
    """A share, in [0, 1], of so many (`of`), with the 95 % interval by Wilson (1927); None of nothing."""

    value: float | None
    low: float
    high: float
    of: int


def share(part: int, count: int) -> Share:
    """`part` of `count`, as of a sample drawn at random."""
    if not count:
        return Share(None, 0.0, 1.0, 0)
    from scipy.stats import binomtest

    limits = binomtest(part, count).proportion_ci(0.95, method="wilson")
    return Share(part / count, float(limits.low), float(limits.high), count)


class Tenth(NamedTuple):
    """Labelled pictures with p(yes) from `low` to `high`: their mean p(yes), and the share that is labelled yes."""

    low: float
    high: float
    p_yes: float
    true: Share


@dataclass(frozen=True)
class Agreement:
    """precision: of kept pictures, labelled yes. recall: of pictures labelled yes, kept. accuracy: decided as labelled.
    true: labelled yes of all that have a label. tenths: the calibration. error: expected calibration error, the mean
    over pictures of |mean p(yes) - share labelled yes| of their tenth (Naeini et al. 2015, equal widths). area: under
    the ROC curve, pictures of one hundredth of p(yes) counted as ties; None where all labels are alike."""

    precision: Share
    recall: Share
    accuracy: Share
    true: Share
    tenths: tuple[Tenth, ...]
    error: float
    area: float | None


def agreement(tally: Tally) -> Agreement | None:
    """How far decisions and labels agree; None where nothing that was judged has a label."""
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

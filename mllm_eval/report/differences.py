"""Paired tests between runs, on the samples that they share, corrected over the whole table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from mllm_eval import stats
from mllm_eval.report.evidence import Estimate, Scored
from mllm_eval.results import AVERAGE, columns
from mllm_eval.stats import Interval, Paired, Units
from mllm_eval.stats.estimator import Floats


@dataclass(frozen=True, slots=True)
class Difference:
    """a - b on a benchmark, category or AVG, in points of the table, tested by permutation clustered by image.

    `holm` is p after Holm's correction. `only_a`, `only_b` and `mcnemar` are set for scores of 0 and 1 only: the
    samples that one run alone has right, and p of McNemar's exact test.
    """

    a: str
    b: str
    key: str
    difference: Interval
    p: float
    holm: float
    only_a: int | None = None
    only_b: int | None = None
    mcnemar: float | None = None
    gain: Gain | None = None


@dataclass(frozen=True, slots=True)
class Gain:
    """The difference of two runs' visual gains (value minus blind value), by the same test as `Difference`."""

    difference: Interval
    p: float
    holm: float


class RunPair(NamedTuple):
    """Two runs to be compared, each behind the label of its row."""

    label_a: str
    a: Scored
    label_b: str
    b: Scored


def differences(pairs: Sequence[RunPair], blind: Mapping[str, Scored] | None = None) -> list[Difference]:
    """Paired tests of runs on every benchmark, category and AVG, corrected together (Holm).

    Only samples that both runs answered count. A benchmark is left out if one run
    lacks it or was asked other samples; a mean is left out if too many samples of one of its members failed.

    `blind`: label -> the same run without images. If both runs of a pair have one on the same samples, the difference
    of their visual gains is tested too; these tests have a Holm correction of their own.
    """
    tested: list[Difference] = []
    for label_a, a, label_b, b in pairs:
        parts: dict[str, Paired] = {}
        seen: dict[str, Paired] = {}
        unseen = [(blind or {}).get(label) for label in (label_a, label_b)]
        for name in a.estimates:
            if name not in b.estimates or (pair := _paired(name, a, b)) is None:
                continue
            parts[name] = pair
            counted = _mcnemar(a.estimates[name].score, b.estimates[name].score)
            if unseen[0] and unseen[1] and (gain := _paired(name, a, b, unseen[0], unseen[1])):
                seen[name] = gain
            tested.append(
                Difference(label_a, label_b, name, pair.difference, pair.p, math.nan, *counted, _gain(seen.get(name)))
            )
        for mean in (AVERAGE, *columns().categories):
            members = columns().members(mean)
            if all(name in parts and name not in {*a.failing, *b.failing} for name in members):
                weights = [columns().percent(name) / len(members) for name in members]
                whole = stats.combined([parts[name] for name in members], weights)
                by_sight = (
                    stats.combined([seen[name] for name in members], weights)
                    if all(name in seen for name in members)
                    else None
                )
                tested.append(
                    Difference(label_a, label_b, mean, whole.difference, whole.p, math.nan, gain=_gain(by_sight))
                )
    corrected = stats.holm([one.p for one in tested])
    gains = stats.holm([one.gain.p if one.gain else math.nan for one in tested])
    return [
        replace(one, holm=p, gain=replace(one.gain, holm=gain) if one.gain else None)
        for one, p, gain in zip(tested, corrected, gains, strict=True)
    ]


def sound(pairwise: Sequence[Difference], runs: Sequence[Scored]) -> list[Difference]:
    """The differences that sentences may report: not on a benchmark of which too many samples failed in any run."""
    failing = {name for run in runs for name in run.failing}
    return [one for one in pairwise if one.key not in failing]


def _gain(pair: Paired | None) -> Gain | None:
    return Gain(pair.difference, pair.p, math.nan) if pair else None


def _paired(name: str, *runs: Scored) -> Paired | None:
    """The paired test of a - b. For runs (a, b, blind a, blind b), that of (a - blind a) - (b - blind b).

    None if a run lacks the benchmark or was asked other samples.
    """
    if any(name not in run.estimates or not same_samples(runs[0], run, name) for run in runs):
        return None
    units = shared_units(name, runs)
    # The draws are paired: with the same seed each run's draws pick the same clusters.
    draws = (
        None
        if any(np.isnan(run.estimates[name].score).any() for run in runs)
        else [run.own_draws[name] for run in runs]
    )
    if len(runs) == 2:
        a, b = units
        gaps = draws[0] - draws[1] if draws else stats.DRAWS
    else:
        # A permutation exchanges the two runs' results on an image with and without the image together.
        a, b = units[0].minus(units[2]), units[1].minus(units[3])
        gaps = draws[0] - draws[2] - (draws[1] - draws[3]) if draws else stats.DRAWS
    return stats.paired(a, b, stats.seed_of(name), gaps)


def shared_units(name: str, runs: Sequence[Scored]) -> list[Units]:
    """The units of each run on a benchmark, over the samples that failed in none of the runs."""
    sides = [run.estimates[name] for run in runs]
    failed = np.isnan([side.score for side in sides]).any(axis=0)
    if not failed.any():
        return [side.units for side in sides]
    return [side.units_of(np.where(failed, np.nan, side.score)) for side in sides]


def same_samples(a: Scored, b: Scored, name: str) -> bool:
    """Whether two runs were asked the same samples of a benchmark, with the same groups, clusters and estimator."""
    return _same_samples(a.estimates[name], b.estimates[name])


def _same_samples(one: Estimate, other: Estimate) -> bool:
    keys = ["id", "group", "cluster"]
    return (
        one.estimator == other.estimator
        and one.frame[keys].reset_index(drop=True).equals(other.frame[keys].reset_index(drop=True))
        and one.stratum == other.stratum
    )


def _mcnemar(a: Floats, b: Floats) -> tuple[int | None, int | None, float | None]:
    known = np.concatenate([a, b])
    known = known[~np.isnan(known)]
    return stats.mcnemar(a, b) if np.isin(known, (0.0, 1.0)).all() else (None, None, None)

"""Differences between runs on the samples they share, tested over the whole table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from mllm_eval import stats
from mllm_eval.report.evidence import Estimate, Scored
from mllm_eval.results import AVERAGE, columns
from mllm_eval.stats import Interval, Paired
from mllm_eval.stats.estimator import Floats


@dataclass(frozen=True, slots=True)
class Difference:
    """a - b on a benchmark, category or AVG, in points of what the table prints; `holm` is p corrected."""

    a: str
    b: str
    key: str
    difference: Interval
    p: float
    holm: float
    only_a: int | None = None
    only_b: int | None = None
    mcnemar: float | None = None


def differences(pairs: Sequence[tuple[str, Scored, str, Scored]]) -> list[Difference]:
    """Paired tests of (label, run, label, run) on every benchmark, category and AVG; Holm over all of them.

    Only samples that both runs answered count. Benchmarks that one of the two lacks, or of which it was asked
    other samples, are left out.
    """
    found: list[Difference] = []
    for label_a, a, label_b, b in pairs:
        parts: dict[str, Paired] = {}
        for name in a.estimates:
            if name not in b.estimates or (pair := _paired(name, a, b)) is None:
                continue
            parts[name] = pair
            counted = _mcnemar(a.estimates[name].score, b.estimates[name].score)
            found.append(Difference(label_a, label_b, name, pair.difference, pair.p, math.nan, *counted))
        for mean in (AVERAGE, *columns().categories):
            members = columns().members(mean)
            if all(name in parts for name in members):
                weights = [columns().percent(name) / len(members) for name in members]
                whole = stats.combined([parts[name] for name in members], weights)
                found.append(Difference(label_a, label_b, mean, whole.difference, whole.p, math.nan))
    corrected = stats.holm([one.p for one in found])
    return [replace(one, holm=p) for one, p in zip(found, corrected, strict=True)]


def _paired(name: str, a: Scored, b: Scored) -> Paired | None:
    one, other = a.estimates[name], b.estimates[name]
    if not _same_samples(one, other):
        return None
    failed = np.isnan(one.score) | np.isnan(other.score)
    if not failed.any():
        draws = a.own_draws[name] - b.own_draws[name]  # paired, since the same seed drew the same clusters
        return stats.paired(one.units, other.units, stats.seed_of(name), draws)
    both = [side.units_of(np.where(failed, np.nan, side.score)) for side in (one, other)]
    return stats.paired(both[0], both[1], stats.seed_of(name))


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

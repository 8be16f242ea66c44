"""Runs that differ only in their seed: variance between seeds and within, and claims smaller than seed noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from mllm_eval import stats
from mllm_eval.report.evidence import Scored
from mllm_eval.report.table import Cell, Column, Row, Table, printed
from mllm_eval.report.words import p_words, title
from mllm_eval.results import AVERAGE, columns
from mllm_eval.stats import SeedGap, Seeds


@dataclass(frozen=True, slots=True)
class SeedGroup:
    """Two or more seeds of one encoder, all else equal; `of` holds their spread by benchmark, category and AVG."""

    encoder: str
    runs: tuple[Scored, ...]
    of: dict[str, Seeds]


def seed_groups(runs: Sequence[Scored]) -> list[SeedGroup]:
    """The encoders of which several seeds are there, in the order of the runs."""
    alike: dict[tuple[str, str], list[Scored]] = {}
    for run in runs:
        if run.variant == "default":
            alike.setdefault((run.record.encoder, run.record.held_equal), []).append(run)
    found = []
    for (encoder, _), members in alike.items():
        own = list({run.record.seed: run for run in members}.values())
        if len(own) > 1:
            found.append(SeedGroup(encoder, tuple(own), {key: _spread(own, key) for key in _keys(own)}))
    return found


def _keys(runs: Sequence[Scored]) -> list[str]:
    means = [AVERAGE, *columns().categories]
    return [key for key in (*means, *runs[0].benchmarks) if all(key in run.draws for run in runs)]


def _spread(runs: Sequence[Scored], key: str) -> Seeds:
    estimate = runs[0].estimates.get(key)
    freedom = float(estimate.units.freedom) if estimate else math.inf
    return stats.over_seeds([run.values[key] for run in runs], [run.draws[key] for run in runs], max(freedom, 1.0))


def seed_gaps(groups: Sequence[SeedGroup]) -> list[tuple[SeedGroup, SeedGroup, str, SeedGap]]:
    """Every pair of groups on AVG and the categories (benchmarks where there are none)."""
    found = []
    for a, b in combinations(groups, 2):
        shared = [key for key in a.of if key in b.of]
        means = [key for key in shared if key == AVERAGE or key in columns().categories]
        for key in means or shared:
            draws = [np.mean([run.draws[key] for run in side.runs], axis=0) for side in (a, b)]
            found.append((a, b, key, stats.gap_over_seeds(a.of[key], b.of[key], draws[0] - draws[1])))
    return found


def seed_sentences(groups: Sequence[SeedGroup]) -> list[str]:
    """What the seeds allow to be said of pairs of encoders; smaller than seed noise is said to be that."""
    said = []
    for a, b, key, gap in seed_gaps(groups):
        size, value = printed(abs(gap.difference.value), 1), gap.difference.value
        winner, loser = (a, b) if value >= 0 else (b, a)
        low, high = sorted(math.copysign(1, value) * limit for limit in (gap.difference.low, gap.difference.high))
        between = f"[{printed(low, 1)}, {printed(high, 1)}]"
        if abs(value) <= gap.noise:
            said.append(
                f"{title(key)}: {winner.encoder} is {size} {between} above {loser.encoder}, no more than what two "
                f"seeds of one encoder differ by (up to {printed(gap.noise, 1)} in 95 %)."
            )
        else:
            said.append(
                f"{title(key)}: {winner.encoder} is {size} {between} above {loser.encoder} over "
                f"{len(a.runs)} and {len(b.runs)} seeds, {p_words(gap.p)}."
            )
    return said


def seed_table(runs: Sequence[Scored]) -> Table | None:
    """Mean over seeds with its interval, deviation between seeds and within; None without two seeds of anything."""
    groups = seed_groups(runs)
    if not groups:
        return None
    shown = (
        Column("mean", "Mean"),
        Column("between", "Between seeds", decimals=2),
        Column("within", "Within a seed", decimals=2),
        Column("values", "Each seed", text=True),
    )
    rows = []
    for group in groups:
        seeds = ", ".join(str(run.record.seed) for run in group.runs)
        for key, found in group.of.items():
            limits = f"[{printed(found.mean.low, 1)}, {printed(found.mean.high, 1)}]"
            cells = {
                "mean": Cell(
                    printed(found.mean.value, 1), found.mean.value, "", "", found.mean.low, found.mean.high, limits
                ),
                "between": Cell(printed(found.between, 2), found.between),
                "within": Cell(printed(found.within, 2), found.within),
                "values": Cell(" · ".join(printed(value, 1) for value in found.values)),
            }
            rows.append(Row(title(key), "measured", cells, group=f"{group.encoder}, seeds {seeds}"))
    notes = (
        "Between seeds: standard deviation of the seeds' values, training once more. Within a seed: standard "
        "deviation of one seed's value over draws of questions.",
        "[low, high]: 95 % interval of the mean over both.",
    )
    return Table("seeds", "Several seeds", shown, tuple(rows), notes, tuple(seed_sentences(groups)))

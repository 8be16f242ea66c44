"""Runs that differ only in their seed: variance between seeds and within a seed, and differences within seed noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from mllm_eval import stats
from mllm_eval.catalog.variant import DEFAULT
from mllm_eval.report.differences import same_samples
from mllm_eval.report.evidence import Scored, draw_alone, read_blind, weighed
from mllm_eval.report.table import Cell, Column, Row, Table, printed, score_cell
from mllm_eval.report.words import ALPHA, NO_BLIND, apart_words, p_words, title
from mllm_eval.results import AVERAGE, columns
from mllm_eval.stats import Scale, SeedGap, Seeds
from mllm_eval.stats.estimator import Floats


@dataclass(frozen=True, slots=True)
class SeedGroup:
    """Two or more seeds of one encoder, all else equal. `of`: benchmark, category or AVG -> spread over the seeds."""

    encoder: str
    runs: tuple[Scored, ...]
    of: dict[str, Seeds]


def seed_groups(runs: Sequence[Scored]) -> list[SeedGroup]:
    """The encoders with at least two seeds, in the order of the runs. Only the default variant counts."""
    alike: dict[tuple[str, str], list[Scored]] = {}
    for run in runs:
        if run.variant == DEFAULT:
            alike.setdefault((run.record.encoder, run.record.held_equal), []).append(run)
    groups = []
    for (encoder, _), members in alike.items():
        own = list({run.record.seed: run for run in members}.values())
        if len(own) > 1:
            groups.append(group_seeds(encoder, own))
    return groups


def group_seeds(name: str, runs: Sequence[Scored]) -> SeedGroup:
    """Two or more runs that differ only in their seeds, as a group of that name."""
    return SeedGroup(name, tuple(runs), {key: _spread(runs, key) for key in _keys(runs)})


def _keys(runs: Sequence[Scored]) -> list[str]:
    means = [AVERAGE, *columns().categories]
    return [key for key in (*means, *runs[0].benchmarks) if all(key in run.draws for run in runs)]


def _spread(runs: Sequence[Scored], key: str) -> Seeds:
    _, freedom = _questions([[(run, None) for run in runs]], key)
    values, draws = [run.values[key] for run in runs], [run.draws[key] for run in runs]
    return stats.over_seeds(values, draws, freedom, _scale(runs[0], key))


def _scale(run: Scored, key: str) -> Scale:
    """The range of possible values: 0 to 100 for most, 0 to 2,000 for MME."""
    top = sum(share * float(units.weight.sum()) for units, share in weighed(run.estimates, key))
    return Scale(0.0, top)


def _questions(sides: Sequence[Sequence[tuple[Scored, Scored | None]]], key: str) -> tuple[Floats, float]:
    """Bootstrap draws of the mean over seeds, with their degrees of freedom; of two sides, draws of the difference.

    Each seed is (run, None), or (run, the same run without images) to draw the mean of visual gains.
    """
    known = columns()
    members = [(key, 1.0)] if key in sides[0][0][0].estimates else [
        (name, known.percent(name) / len(known.members(key))) for name in known.members(key)
    ]  # fmt: skip
    parts = []
    for name, share in members:
        means = [
            np.mean([run.own_draws[name] - (blind.own_draws[name] if blind else 0.0) for run, blind in side], axis=0)
            for side in sides
        ]
        asked = [one for side in sides for pair in side for one in pair if one]
        freedom = min(one.estimates[name].units.freedom for one in asked)
        parts.append((share * (means[0] - means[1] if len(means) > 1 else means[0]), freedom))
    draws = np.asarray(sum(own for own, _ in parts))
    return draws, stats.satterthwaite([float(np.nanvar(own, ddof=1)) for own, _ in parts], [one for _, one in parts])


@dataclass(frozen=True, slots=True)
class Compared:
    """The comparison of two groups of seeds on AVG, a category or a benchmark.

    `gains` compares their visual gains (score minus blind score); None unless each seed of both groups was asked the
    same questions without images.
    """

    a: SeedGroup
    b: SeedGroup
    key: str
    gap: SeedGap
    gains: SeedGap | None


def compare_groups(groups: Sequence[SeedGroup]) -> list[Compared]:
    """Compares each pair of groups on AVG and the categories, or on the benchmarks if they share none of these."""
    compared = []
    for a, b in combinations(groups, 2):
        shared = [key for key in a.of if key in b.of]
        means = [key for key in shared if key == AVERAGE or key in columns().categories]
        blind = [[(run, _without_images(run)) for run in side.runs] for side in (a, b)]
        for key in means or shared:
            draws, freedom = _questions([[(run, None) for run in side.runs] for side in (a, b)], key)
            gap = stats.gap_over_seeds(a.of[key], b.of[key], draws, freedom)
            compared.append(Compared(a, b, key, gap, _gap_of_gains(blind, key)))
    return compared


def _without_images(run: Scored) -> Scored | None:
    blind = read_blind(run)
    return blind and draw_alone(blind)


def _gap_of_gains(sides: Sequence[Sequence[tuple[Scored, Scored | None]]], key: str) -> SeedGap | None:
    members = [key] if key in sides[0][0][0].estimates else columns().members(key)
    for run, blind in (pair for side in sides for pair in side):
        if blind is None or not all(name in blind.estimates and same_samples(run, blind, name) for name in members):
            return None
    spreads = []
    for side in sides:
        _, freedom = _questions([side], key)
        values = [run.values[key] - blind.values[key] for run, blind in side if blind]
        draws = [run.draws[key] - blind.draws[key] for run, blind in side if blind]
        scale = _scale(side[0][0], key)
        spreads.append(stats.over_seeds(values, draws, freedom, scale.minus(scale)))
    return stats.gap_over_seeds(spreads[0], spreads[1], *_questions(sides, key))


def seed_sentences(groups: Sequence[SeedGroup]) -> list[str]:
    """A sentence for each comparison of two encoders; a difference within seed noise is called that.

    For a larger difference, the sentence adds whether the visual gains differ as well.
    """
    said = []
    for one in compare_groups(groups):
        a, b, key, gap, gains = one.a, one.b, one.key, one.gap, one.gains
        size, value = printed(abs(gap.difference.value), 1), gap.difference.value
        winner, loser = (a, b) if value >= 0 else (b, a)
        low, high = sorted(math.copysign(1, value) * limit for limit in (gap.difference.low, gap.difference.high))
        between = "" if math.isnan(low) else f" [{printed(low, 1)}, {printed(high, 1)}]"
        if abs(value) <= gap.noise:
            said.append(
                f"{title(key)}: {winner.encoder} is {size}{between} above {loser.encoder}, no more than what two "
                f"seeds of one encoder differ by (up to {printed(gap.noise, 1)} in 95 %)."
            )
        else:
            said.append(
                f"{title(key)}: {winner.encoder} is {size}{between} above {loser.encoder} over "
                f"{len(a.runs)} and {len(b.runs)} seeds, {p_words(gap.p)}{_sight(gap, gains)}."
            )
    return said


def _sight(gap: SeedGap, gains: SeedGap | None) -> str:
    """Whether the visual gains differ in the same direction; else by how much the two differ without images."""
    if gains is None:
        return f" ({NO_BLIND})"
    value = gap.difference.value
    seen = gains.p < ALPHA and gains.difference.value * value > 0
    how = "by sight" if seen else "but not by sight"
    return f", {how}: {apart_words(value, gains.difference)}, {p_words(gains.p)}"


def seed_table(runs: Sequence[Scored]) -> Table | None:
    """The mean over seeds with its interval, and the deviations between and within seeds; None without two seeds."""
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
        for key, spread in group.of.items():
            cells = {
                "mean": score_cell(spread.mean.value, shown[0], limits=(spread.mean.low, spread.mean.high)),
                "between": Cell(printed(spread.between, 2), spread.between),
                "within": Cell(printed(spread.within, 2), spread.within),
                "values": Cell(" · ".join(printed(value, 1) for value in spread.values)),
            }
            rows.append(Row(title(key), "measured", cells, group=f"{group.encoder}, seeds {seeds}"))
    notes = (
        "Between seeds: standard deviation of the seeds' values, training once more. Within a seed: standard "
        "deviation of one seed's value over draws of questions.",
        "[low, high]: 95 % interval of the mean over both. None, and no deviation within a seed, where all questions "
        "are on one image.",
    )
    return Table("seeds", "Several seeds", shown, tuple(rows), notes, tuple(seed_sentences(groups)))

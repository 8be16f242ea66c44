"""Which benchmarks a run answers better than by chance."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mllm_eval import stats
from mllm_eval.catalog.variant import DEFAULT, VariantKey
from mllm_eval.report.differences import same_samples, shared_units
from mllm_eval.report.evidence import Scored, read_blind, read_scored
from mllm_eval.report.table import Cell, Column, Row, Table, printed, score_cell
from mllm_eval.report.words import ALPHA, p_words, title
from mllm_eval.results import RunRecord


@dataclass(frozen=True, slots=True)
class AboveChance:
    """The test of one benchmark's value against its chance level, both on the benchmark's own scale.

    `p` is one-sided and clustered by image; None where it can't be computed. `blind` is the value without images, or
    None. Where the run was asked blind on the same samples, the value must exceed the blind value too (paired test),
    and `p` is the larger of the two.
    """

    benchmark: str
    value: float
    chance: float
    p: float | None
    above: bool
    blind: float | None


def above_chance(
    record: RunRecord, rules: str = "cambrian", variant: VariantKey = DEFAULT, alpha: float = ALPHA
) -> list[AboveChance]:
    """Tests each benchmark of a run against its chance level. Raises UserError if nothing was scored by `rules`."""
    run = read_scored(record, rules, variant)
    blind = read_blind(run)
    tested = []
    for name in run.benchmarks:
        chance = float(run.summaries[name]["chance"])
        p = chance_p(run, blind, name)
        above = p is not None and p < alpha
        seen = blind.values.get(name) if blind else None
        tested.append(AboveChance(name, run.values[name], chance, p, above, seen))
    return tested


def chance_p(run: Scored, blind: Scored | None, name: str) -> float | None:
    """One-sided p of a benchmark's value being above chance, or None where it can't be computed.

    Where `blind` has the same samples, the value is also tested against the blind value; the larger p is returned.
    """
    if name not in run.estimates:
        return None
    against = [stats.above_chance(run.estimates[name].units, float(run.summaries[name]["chance"]))]
    if blind and name in blind.estimates and same_samples(run, blind, name):
        against.append(stats.above_other(*shared_units(name, (run, blind))))
    return None if any(math.isnan(p) for p in against) else max(against)


def chance_table(
    record: RunRecord,
    rules: str = "cambrian",
    variant: VariantKey = DEFAULT,
    alpha: float = ALPHA,
    intervals: bool = True,
) -> Table:
    """`above_chance` as a table. Its sentence counts the benchmarks above chance and names the others."""
    run, tested = read_scored(record, rules, variant), above_chance(record, rules, variant, alpha)
    number = {
        key: Column(key, name)
        for key, name in (("value", "Value"), ("chance", "Chance"), ("gain", "Above"), ("blind", "Blind"))
    }
    shown = (*number.values(), Column("p", "p", text=True), Column("verdict", "Verdict", text=True))
    rows = []
    for one in tested:
        limits = run.interval(one.benchmark) if intervals else None
        between = (limits.low, limits.high) if limits else None
        cells = {
            "value": score_cell(one.value, number["value"], limits=between),
            "chance": score_cell(one.chance, number["chance"]),
            "gain": score_cell(one.value - one.chance, number["gain"]),
            "blind": score_cell(one.blind, number["blind"]),
            "p": Cell(p_words(one.p).removeprefix("p = ").removeprefix("p ") if one.p is not None else "unknown"),
            "verdict": Cell("above chance" if one.above else "not above chance"),
        }
        rows.append(Row(title(one.benchmark), "measured", cells))
    below = [
        f"{title(one.benchmark)} ({printed(one.value, 1)}, chance {printed(one.chance, 1)}"
        + (f", blind {printed(one.blind, 1)})" if one.blind is not None else ")")
        for one in tested
        if not one.above
    ]
    sentence = f"{sum(one.above for one in tested)} of {len(tested)} benchmarks are above chance at p < {alpha:g}"
    sentence += f"; not above: {', '.join(below)}." if below else "."
    return Table(
        name="chance",
        title=f"{run.record.encoder}: above chance",
        columns=shown,
        rows=tuple(rows),
        notes=(
            f"One-sided t-test, standard error clustered by image. Run {run.record.hash}, rules {rules}.",
            "Blind: the same run on the same questions without images; where it is there, p is the larger of that "
            "against chance and that against blind (paired).",
        ),
        sentences=(sentence,),
    )

"""How many questions a difference needs: the power of paired tests, and how well a subset stands for the whole."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mllm_eval import stats
from mllm_eval.catalog.variant import DEFAULT, VariantKey
from mllm_eval.errors import UserError
from mllm_eval.report.comparison import labels
from mllm_eval.report.evidence import Estimate, Scored, limits, with_means
from mllm_eval.report.seedtable import SeedGroup
from mllm_eval.report.table import MISSING, Cell, Column, Row, Table, printed, score_cell
from mllm_eval.report.words import title
from mllm_eval.results import AVERAGE, columns


@dataclass(frozen=True, slots=True)
class Power:
    """The power of the paired test between two runs, in points of the table; nan is unknown.

    error       standard error of the difference
    detectable  the smallest difference that is found with probability 0.8
    questions   number of questions that both runs answered
    needed      number of questions for the wanted difference to be found with probability 0.8
    """

    key: str
    difference: float
    error: float
    detectable: float
    questions: int
    needed: float


def power(a: Scored, b: Scored, wanted: float) -> list[Power]:
    """The power on each benchmark of which both runs were asked the same samples, on the categories and on AVG.

    `wanted` is a difference on the scale of 0 to 100. Samples that failed in either run are left out.
    """
    powers: dict[str, Power] = {}
    for name, one in a.estimates.items():
        other = b.estimates.get(name)
        if other is None or list(one.frame["id"]) != list(other.frame["id"]):
            continue
        failed = np.isnan(one.score) | np.isnan(other.score)
        left, right = (side.units_of(np.where(failed, np.nan, side.score)) for side in (one, other))
        error, asked = stats.paired_error(left, right), int((~failed).sum())
        # `wanted` is on the scale of 0 to 100; the benchmark's own scale may differ (MME)
        scale = columns().percent(name)
        needed = stats.questions_needed(wanted / scale, error, asked)
        powers[name] = Power(name, left.value - right.value, error, stats.detectable(error), asked, needed)
    for mean in (AVERAGE, *columns().categories):
        members = columns().members(mean)
        if all(name in powers for name in members):
            own = [(powers[name], columns().percent(name) / len(members)) for name in members]
            error = math.sqrt(sum((one.error * share) ** 2 for one, share in own))
            asked = sum(one.questions for one, _ in own)
            gap = sum(one.difference * share for one, share in own)
            needed = stats.questions_needed(wanted, error, asked)
            powers[mean] = Power(mean, gap, error, stats.detectable(error), asked, needed)
    order = [AVERAGE, *columns().categories, *a.benchmarks]
    return [powers[key] for key in order if key in powers]


def power_table(a: Scored, b: Scored, wanted: float, groups: Sequence[SeedGroup] = ()) -> Table:
    """`power` as a table. Its sentences say how many seeds a difference in AVG needs, for each group of seeds.

    Raises UserError if the runs share no benchmark with the same samples.
    """
    shown = (
        Column("difference", "Difference"),
        Column("error", "Std. error", decimals=2),
        Column("detectable", "Found in 80 %", decimals=1),
        Column("questions", "Questions", decimals=0),
        Column("needed", f"Needed for {wanted:g}", decimals=0),
    )
    rows = []
    for one in power(a, b, wanted):
        cells = {
            "difference": Cell(f"{one.difference:+.1f}".replace("-", "−"), one.difference),  # noqa: RUF001
            "error": Cell(printed(one.error, 2), one.error),
            "detectable": Cell(printed(one.detectable, 1), one.detectable),
            "questions": Cell(f"{one.questions:,}", float(one.questions)),
            "needed": Cell(_many(one.needed), one.needed),
        }
        rows.append(Row(title(one.key), "measured", cells))
    if not rows:
        raise UserError(f"{a.record.name} and {b.record.name} share no benchmark whose samples are the same")
    notes = (
        "Std. error: of the paired difference, clustered by image. Found in 80 %: the smallest difference that a "
        "two-sided test at 0.05 finds with probability 0.8.",
        f"Needed: questions of this kind for a difference of {wanted:g} (on the scale of 0 to 100) to be found so. "
        "A dash: all questions are on one image, or the two differ by as much on each.",
    )
    heading = "Power: {} against {}".format(*labels([a, b]))
    return Table("power", heading, shown, tuple(rows), notes, tuple(_seed_words(groups, wanted)))


def _many(questions: float) -> str:
    if math.isnan(questions):
        return MISSING
    return f"{math.ceil(questions):,}" if math.isfinite(questions) else "∞"


def _seed_words(groups: Sequence[SeedGroup], wanted: float) -> list[str]:
    said = []
    for group in groups:
        if AVERAGE in group.of:
            between = group.of[AVERAGE].between
            count = stats.seeds_needed(wanted, between)
            many = "more than 10,000" if count is None else str(count)
            said.append(
                f"{group.encoder}: AVG varies by {printed(between, 2)} (standard deviation) between its "
                f"{len(group.runs)} seeds; a difference of {wanted:g} needs {many} seeds of each encoder."
            )
    return said


def thinned(run: Scored, size: int) -> dict[str, Estimate]:
    """Benchmark -> its estimate on the samples that `mllm-eval eval --subset` asks in a subset of `size` questions."""
    values = {}
    for name, one in run.estimates.items():
        keep = stats.part_of_table(list(one.frame["cluster"]), one.stratum, size, name)
        kept = tuple(part for part, chosen in zip(one.stratum, keep, strict=True) if chosen)
        values[name] = Estimate(one.estimator, one.frame[keep].reset_index(drop=True), kept)
    return values


def subset_table(runs: Sequence[Scored], labels: Sequence[str], size: int) -> Table:
    """Each run on all questions and on a subset of `size`, with the subset's interval and the rank correlations.

    Raises:
        UserError: a size that leaves a benchmark without questions.
    """
    VariantKey.of(DEFAULT.name, size)
    parts = [thinned(run, size) for run in runs]
    means = [AVERAGE, *columns().categories]
    keys = [key for key in means if all(key in columns().means(_values(part)) for part in parts)]
    keys = keys or [name for name in runs[0].benchmarks if all(name in part for part in parts)]
    shown = tuple(
        Column(f"{key}{end}", f"{title(key)}{more}") for key in keys for end, more in (("", ""), ("_part", " part"))
    )
    rows = []
    halves: dict[str, list[tuple[float, float]]] = {key: [] for key in keys}
    for run, label, part in zip(runs, labels, parts, strict=True):
        cells: dict[str, Cell] = {}
        draws = with_means(
            {name: stats.distribution([one.units], seed=stats.seed_of(name))[0] for name, one in part.items()}
        )
        for key in keys:
            value = columns().means(_values(part))[key] if key in means else _values(part)[key]
            between = limits(part, draws, key, value)
            cells[key] = Cell(printed(run.values[key], 1), run.values[key])
            cells[f"{key}_part"] = score_cell(value, shown[0], limits=(between.low, between.high) if between else None)
            halves[key].append((run.values[key], value))
        rows.append(Row(label, "measured", cells))
    asked = sum(len(one.frame) for one in parts[0].values())
    total = sum(len(one.frame) for one in runs[0].estimates.values())
    said = []
    for key in keys:
        alike = stats.agreement(*zip(*halves[key], strict=True))
        ranks = "" if math.isnan(alike.spearman) else f"ranks agree with Spearman {alike.spearman:.2f}, "
        ranks += "" if math.isnan(alike.kendall) else f"Kendall {alike.kendall:.2f}; "
        said.append(f"{title(key)}: {ranks}values differ by up to {printed(alike.apart, 1)}.")
    notes = (
        f"Part: {asked:,} of {total:,} questions, equally many of each benchmark, strata in their shares, all "
        "questions of an image together, chosen by a hash of the image.",
        "[low, high]: 95 % interval that the part implies, clustered by image, Student's t for few images; none where "
        "all questions of a benchmark, or of a stratum, are on one image.",
    )
    return Table("subset", f"A subset of {size:,} questions", shown, tuple(rows), notes, tuple(said))


def _values(part: dict[str, Estimate]) -> dict[str, float]:
    return {name: one.units.value for name, one in part.items()}

"""Scores of encoder families against the sizes of their members: fits, their table, and where families cross."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache
from typing import Literal

import numpy as np
import pandas as pd

from mllm_eval import stats
from mllm_eval.catalog.variant import DEFAULT
from mllm_eval.config import Strict, load
from mllm_eval.errors import UserError, near
from mllm_eval.report.counted import counted_notes, lacking, names, recounted, ways_of
from mllm_eval.report.evidence import Scored
from mllm_eval.report.table import Cell, Column, Row, Table, printed, signed
from mllm_eval.results import AVERAGE, columns, published, values
from mllm_eval.results.published import number
from mllm_eval.stats import Fit
from mllm_eval.storage import SHIPPED

Source = Literal["measured", "published"]
_AMOUNT = re.compile(r"\s*([0-9.]+)\s*([kMBT]?)\s*")
_UNITS = {"": 1e-9, "k": 1e-6, "M": 1e-3, "B": 1.0, "T": 1e3}


class Metric(Strict):
    """The mean `of` a category or AVG, without some of its members."""

    title: str
    of: str
    without: list[str]


class Family(Strict):
    """The published rows of a family, and a shell pattern for the names of measured encoders that belong to it."""

    file: str
    measured: str


class Curve(Strict):
    """Families over one axis. `column` is the column of the published rows that holds the size."""

    title: str
    axis: str
    column: str
    source: str
    families: dict[str, Family]


class Scaling(Strict):
    """The contents of configs/scaling.yaml."""

    sizes: dict[str, float]
    metrics: dict[str, Metric]
    curves: dict[str, Curve]


@dataclass(frozen=True, slots=True)
class Line:
    """The fit of one family's scores on one axis. `names` are the encoders of its points."""

    curve: str
    family: str
    source: Source
    key: str
    names: tuple[str, ...]
    fit: Fit


@cache
def scaling() -> Scaling:
    """The families and axes that this installation knows."""
    return load(SHIPPED / "configs" / "scaling.yaml", Scaling)


def metric_title(key: str) -> str:
    """The heading of AVG, a category, a benchmark, or a metric of scaling.yaml."""
    named, own = columns().named(), scaling().metrics
    return own[key].title if key in own else named[key].title


def metrics() -> list[str]:
    """The metrics that are fitted by default: AVG, the categories, and the metrics of scaling.yaml."""
    return [AVERAGE, *columns().categories, *scaling().metrics]


def billions(text: str) -> float | None:
    """An amount such as `2B`, `700M` or `1.5 B`, in billions; None for other texts (`300 epochs`)."""
    amount = _AMOUNT.fullmatch(text)
    return float(amount[1]) * _UNITS[amount[2]] if amount and amount[2] else None


def lines(curve: str, keys: Sequence[str] | None = None, runs: Iterable[Scored] = ()) -> list[Line]:
    """The fits of a curve: for each family one on its published rows, and one on its measured runs.

    A fit needs two different sizes. Runs of the same encoder with different seeds are averaged to one point.

    Raises:
        UserError: an unknown curve or metric, or a published row whose size is not known.
    """
    config = scaling()
    if curve not in config.curves:
        raise UserError(f"no scaling curve {curve!r}.{near(curve, config.curves)} Known: {', '.join(config.curves)}")
    wanted = list(keys or metrics())
    known = {*columns().named(), *config.metrics}
    for key in wanted:
        if key not in known:
            raise UserError(f"no metric {key!r} to fit.{near(key, known)}")
    fits, measured = [], [run for run in runs if run.variant == DEFAULT]
    for name, family in config.curves[curve].families.items():
        rows = _published(config, config.curves[curve], family)
        fits += _fits(curve, name, "published", wanted, rows, config)
        mine = [run for run in measured if fnmatch(run.record.encoder, family.measured)]
        # drawn next to the published line, so benchmarks are counted as the published rows count them
        mine = [recounted(run, columns().counted_as(family.file)) for run in mine]
        fits += _fits(curve, name, "measured", wanted, _measured(config.curves[curve].column, mine), config)
    return fits


Points = list[tuple[str, float, Mapping[str, float]]]


def _published(config: Scaling, curve: Curve, family: Family) -> Points:
    points: Points = []
    for index, row in published(family.file).iterrows():
        where, text = f"{family.file}:{int(str(index)) + 2}", str(row[curve.column])
        size = config.sizes.get(text) if curve.column == "params" else billions(text)
        if size is None:
            raise UserError(f"{where}: no size is known for {text!r}; add it to configs/scaling.yaml")
        points.append((str(row["model"]), size, {**values(row, where), **_calculated(row, where)}))
    return points


def _calculated(row: pd.Series[str], where: str) -> dict[str, float]:
    """AVG and the categories of a published row as the csv calculates them, to three decimals; the fits use these."""
    points = {}
    for key, named in {AVERAGE: columns().average, **columns().categories}.items():
        for name in (f"{one}_calc" for one in named.csv):
            if name in row.index and (value := number(str(row[name]), f"{where}, {name}")) is not None:
                points[key] = value
    return points


def _measured(column: str, runs: Sequence[Scored]) -> Points:
    points: Points = []
    # An external model has no separate encoder whose size is known.
    for name in dict.fromkeys(run.record.encoder for run in runs if not run.record.external):
        own = [run for run in runs if run.record.encoder == name]
        record = own[0].record
        size = record.params / 1e9 if column == "params" else billions(record.facts[column])
        shared = set.intersection(*(set(run.benchmarks) for run in own))
        if size:
            points.append((name, size, {key: float(np.mean([run.values[key] for run in own])) for key in shared}))
    return points


def _value(key: str, own: Mapping[str, float], config: Scaling) -> float:
    if key not in config.metrics:
        return {**columns().means(own), **own}.get(key, math.nan)
    metric = config.metrics[key]
    members = [name for name in columns().members(metric.of) if name not in metric.without]
    return float(np.mean([own.get(name, math.nan) * columns().percent(name) for name in members]))


def _fits(curve: str, family: str, source: Source, keys: Sequence[str], rows: Points, config: Scaling) -> list[Line]:
    fits = []
    for key in keys:
        known = [(name, x, y) for name, x, own in rows if not math.isnan(y := _value(key, own, config))]
        if len({x for _, x, _ in known}) >= 2:
            fit = stats.log_linear([x for _, x, _ in known], [y for _, _, y in known], seed=stats.seed_of(key))
            fits.append(Line(curve, family, source, key, tuple(name for name, _, _ in known), fit))
    return fits


def crossings(drawn_lines: Sequence[Line]) -> list[tuple[Line, Line, stats.Crossing]]:
    """Pairs of families on one axis and metric that cross between half the smallest and twice the largest size."""
    pairs = []
    for i, a in enumerate(drawn_lines):
        for b in drawn_lines[i + 1 :]:
            if (a.curve, a.key, a.source) != (b.curve, b.key, b.source):
                continue
            sizes = np.concatenate([a.fit.x, b.fit.x])
            met = stats.crossing(a.fit, b.fit, (sizes.min() / 2, sizes.max() * 2))
            if not math.isnan(met.x):
                pairs.append((a, b, met))
    return pairs


def scaling_table(curve: str, keys: Sequence[str] | None = None, runs: Iterable[Scored] = ()) -> Table:
    """One row per family and metric: slope per doubling with its interval, value at one billion, and R².

    Raises UserError as `lines` does.
    """
    runs = list(runs)
    fits, config = lines(curve, keys, runs), scaling().curves[curve]
    shown = (
        Column("slope", "Per doubling", decimals=3),
        Column("intercept", "At 1 B", decimals=3),
        Column("r2", "R²", decimals=3),
        Column("points", "Points", decimals=0),
    )
    rows = []
    for line in fits:
        slope = line.fit.slope
        limits = f"[{printed(slope.low, 2)}, {printed(slope.high, 2)}]"
        cells = {
            "slope": Cell(
                signed(slope.value, 3, typeset=True), slope.value, low=slope.low, high=slope.high, interval=limits
            ),
            "intercept": Cell(printed(line.fit.intercept.value, 3), line.fit.intercept.value),
            "r2": Cell(printed(line.fit.r2, 3), line.fit.r2),
            "points": Cell(str(len(line.names)), float(len(line.names))),
        }
        rows.append(Row(metric_title(line.key), line.source, cells, group=f"{line.family}, {line.source}"))
    said = [crossing_words(*pair) for pair in crossings(fits)]
    notes = [
        f"Least squares of the score on log2({config.axis.lower()}). Published: {config.source}; the fits are ours.",
        "[low, high]: 95 % interval of the slope by the residual bootstrap, widened for few points.",
        *_counted(config, fits, runs),
    ]
    return Table(f"scaling-{curve}", f"Scaling: {config.title.lower()}", shown, tuple(rows), tuple(notes), tuple(said))


def _counted(curve: Curve, drawn_lines: Sequence[Line], runs: Sequence[Scored]) -> list[str]:
    """Notes on benchmarks that the published rows count differently from their headings, if a line shows them."""
    metrics = scaling().metrics
    keys = {metrics[line.key].of if line.key in metrics else line.key for line in drawn_lines}
    ways = ways_of([family.file for family in curve.families.values()], keys)
    patterns = [family.measured for family in curve.families.values()]
    mine = [run for run in runs if any(fnmatch(run.record.encoder, pattern) for pattern in patterns)]
    said = counted_notes(ways, measured=False)
    if ways and any(line.source == "measured" for line in drawn_lines):
        said.append(f"Measured lines are counted as the published ones: by {names(ways)}.")
    return [*said, *lacking([run for run in mine if run.variant == DEFAULT], ways)]


def crossing_words(a: Line, b: Line, met: stats.Crossing) -> str:
    """A sentence that says which family overtakes which, at what size, and with what interval."""
    up, down = (a, b) if a.fit.slope.value > b.fit.slope.value else (b, a)
    said = f"On {metric_title(a.key)} the line of {up.family} passes that of {down.family} at {printed(met.x, 1)} B"
    if math.isnan(met.low):
        return f"{said}, but where is not certain: {printed(100 * met.share, 0)} % of bootstrap lines meet in range."
    return f"{said} [{printed(met.low, 1)}, {printed(met.high, 1)}]."

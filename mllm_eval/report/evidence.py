"""The evidence of a scored run: its values and intervals, and the per-sample scores that tests need."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from mllm_eval import stats
from mllm_eval.catalog import paper_benchmarks
from mllm_eval.catalog.variant import BLIND, DEFAULT, VariantKey
from mllm_eval.errors import UserError
from mllm_eval.results import AVERAGE, RunRecord, columns, strata
from mllm_eval.results.failed import too_many_failed
from mllm_eval.stats import Estimator, Interval, Units
from mllm_eval.stats.estimator import Floats


@dataclass(frozen=True)
class Estimate:
    """The samples of one benchmark, and the estimator that computes the benchmark's value from them.

    `frame` has one row per sample (id, score, group, cluster); `stratum` [N] is the stratum of each.
    """

    estimator: Estimator
    frame: pd.DataFrame
    stratum: tuple[str | None, ...]

    @cached_property
    def units(self) -> Units:
        """The scores summed per cluster."""
        return self.units_of(self.score)

    @property
    def score(self) -> Floats:
        """[N] float64 scores in the order of the ids; nan if the sample failed."""
        return self.frame["score"].to_numpy(dtype=np.float64)

    def units_of(self, score: Floats) -> Units:
        """The same sums for other scores [N] of the same samples."""
        return stats.summed(self.estimator, score, list(self.frame["cluster"]), list(self.frame["group"]), self.stratum)


@dataclass(frozen=True)
class Scored:
    """A run's scores under one rule set and variant. Bootstrap draws are made at first use and kept.

    `samples` is another view of the same run, if this view only counts its per-sample scores differently.
    """

    record: RunRecord
    rules: str
    variant: VariantKey
    summaries: dict[str, dict[str, Any]]
    samples: Scored | None = None

    @property
    def plain(self) -> str:
        """The variant without its subset: `default`, `blind` and so on."""
        return self.variant.name

    @property
    def subset(self) -> int | None:
        """The number of questions of the table's subset; None if all were asked."""
        return self.variant.subset

    @cached_property
    def benchmarks(self) -> list[str]:
        """The benchmarks that have a value: the paper's in the order of its table, then the others by name."""
        order = paper_benchmarks()
        known = [name for name, summary in self.summaries.items() if summary["value"] is not None]
        return sorted(known, key=lambda n: (order.index(n) if n in order else len(order), n))

    @cached_property
    def values(self) -> dict[str, float]:
        """Benchmark, category or AVG -> value on the scale that the paper prints.

        A benchmark of which too many samples failed enters no mean.
        """
        own = {name: float(self.summaries[name]["value"]) for name in self.benchmarks}
        return {**own, **columns().means({name: own[name] for name in own if name not in self.failing})}

    @cached_property
    def failing(self) -> dict[str, int]:
        """Benchmark -> failed samples, where they are more than allowed: it then counts in no mean and no sentence."""
        return {name: failed for name in self.benchmarks if (failed := too_many_failed(self.summaries[name]))}

    @cached_property
    def scores(self) -> pd.DataFrame:
        """The per-sample scores of all benchmarks, one row per sample."""
        if self.samples is not None:
            return self.samples.scores
        return self.record.scores(self.rules, self.variant, self.benchmarks)

    def scores_of(self, name: str) -> pd.DataFrame:
        """The per-sample scores of one benchmark; read from disk unless `scores` is loaded."""
        if "scores" in self.__dict__:
            return self.scores[self.scores["benchmark"] == name]
        return self.record.scores(self.rules, self.variant, [name])

    @cached_property
    def estimates(self) -> dict[str, Estimate]:
        """Benchmark -> its samples and estimator, if these reproduce the value in the summary.

        A benchmark whose value no known estimator reproduces has no entry: an interval would be that of another
        quantity.
        """
        estimates = {}
        for name, frame in self.scores.groupby("benchmark", sort=False):
            known = str(name) in self.benchmarks
            if known and (estimate := _estimate(str(name), frame, self.summaries[str(name)])) is not None:
                estimates[str(name)] = estimate
        return estimates

    @cached_property
    def own_draws(self) -> dict[str, Floats]:
        """Benchmark -> bootstrap values [draws] on the benchmark's own scale."""
        return {
            name: stats.distribution([one.units], seed=stats.seed_of(name))[0] for name, one in self.estimates.items()
        }

    @cached_property
    def draws(self) -> dict[str, Floats]:
        """`own_draws`, with the categories and AVG added."""
        sound = {name: draws for name, draws in self.own_draws.items() if name not in self.failing}
        return {**self.own_draws, **with_means(sound)}

    def interval(self, key: str) -> Interval | None:
        """The 95 % interval of a benchmark, category or AVG; None if it can't be computed, as from a single image."""
        return limits(self.estimates, self.draws, key, self.values[key]) if key in self.draws else None

    @cached_property
    def single(self) -> list[str]:
        """Benchmarks without an interval: all questions, or all of a stratum, are on one image, pair or group."""
        return [name for name, one in self.estimates.items() if one.units.freedom < 1]

    @property
    def counts(self) -> tuple[int, int, int]:
        """The numbers of scored samples, of all samples, and of scored samples that could not be parsed."""
        total = sum(int(s["n"]) for s in self.summaries.values())
        failed = sum(int(s["n_failed"]) + int(s.get("n_unscored", 0)) for s in self.summaries.values())
        return total - failed, total, sum(int(s["n_unparsed"]) for s in self.summaries.values())

    @property
    def empty(self) -> int:
        """The number of answers without a visible character; 0 for scores of versions that did not count them."""
        return sum(int(s.get("n_empty", 0)) for s in self.summaries.values())


def with_means(draws: Mapping[str, Floats]) -> dict[str, Floats]:
    """The bootstrap values of benchmarks, with those of each category and AVG that has all its members."""
    drawn = dict(draws)
    for mean in (AVERAGE, *columns().categories):
        members = columns().members(mean)
        if all(name in draws for name in members):
            drawn[mean] = np.mean([draws[name] * columns().percent(name) for name in members], axis=0)
    return drawn


def limits(estimates: Mapping[str, Estimate], draws: Mapping[str, Floats], key: str, value: float) -> Interval | None:
    """The 95 % interval of a benchmark, category or AVG from its draws; None if it can't be computed."""
    between = stats.widened(stats.interval(value, draws[key]), weighed(estimates, key))
    return None if math.isnan(between.low) else between


def weighed(estimates: Mapping[str, Estimate], key: str) -> list[tuple[Units, float]]:
    """The terms of a benchmark, category or AVG as a weighted sum: (units, weight) for each member."""
    if key in estimates:
        return [(estimates[key].units, 1.0)]
    members = columns().members(key)
    return [(estimates[name].units, columns().percent(name) / len(members)) for name in members]


def read_scored(
    record: RunRecord, rules: str = "cambrian", variant: VariantKey = DEFAULT, benchmarks: Sequence[str] | None = None
) -> Scored:
    """The evidence of a run on all benchmarks, or on those in `benchmarks`. Repeated calls return the same object.

    Raises UserError if the rules scored none of them.
    """
    key = (Scored, rules, variant, None if benchmarks is None else tuple(benchmarks))
    if key not in record.views:
        own = record.summaries(rules, variant)
        if benchmarks is not None:
            own = {name: summary for name, summary in own.items() if name in benchmarks}
        if not own:
            size = variant.subset
            mend = f"`mllm-eval eval {record.encoder} --subset {size}` does" if size else "run `mllm-eval score` first"
            raise UserError(f"{record.folder}: nothing scored by {rules!r} rules ({variant}); {mend}")
        record.views[key] = Scored(record, rules, variant, own)
    scored: Scored = record.views[key]
    return scored


def read_blind(run: Scored) -> Scored | None:
    """The same run asked the same questions without images; None if it was not, or if `run` is no default variant."""
    blind = run.variant.named(BLIND.name)
    asked = run.plain == DEFAULT.name and blind in run.record.variants(run.rules)
    return read_scored(run.record, run.rules, blind) if asked else None


def read_variants(
    records: Sequence[RunRecord], rules: str, variants: Sequence[VariantKey], benchmarks: Sequence[str] | None = None
) -> list[Scored]:
    """The evidence of runs in each of the variants that they were scored in, ordered by variant, then by run.

    Raises:
        UserError: no runs, or a run that was scored in none of the variants.
    """
    if not records:
        raise UserError("no runs to show")
    scored = []
    for variant in variants:
        for record in records:
            known = record.variants(rules)
            missing = not any(one in known for one in variants) and variant == variants[0]
            if variant in known or missing:
                scored.append(read_scored(record, rules, variant, benchmarks))
    return scored


def draw_together(runs: Sequence[Scored]) -> None:
    """Makes the bootstrap draws of several runs at once; runs with the same samples share the weights of a draw.

    Draws that a run already has are kept.
    """
    waiting = [run for run in runs if "own_draws" not in run.__dict__]
    drawn: list[dict[str, Floats]] = [{} for _ in waiting]
    for name in dict.fromkeys(name for run in waiting for name in run.estimates):
        alike: dict[tuple[str, ...], list[int]] = {}
        for index, run in enumerate(waiting):
            if name in run.estimates:
                alike.setdefault(run.estimates[name].units.clusters, []).append(index)
        for members in alike.values():
            units = [waiting[index].estimates[name].units for index in members]
            for index, values in zip(members, stats.distribution(units, seed=stats.seed_of(name)), strict=True):
                drawn[index][name] = values
    for run, draws in zip(waiting, drawn, strict=True):
        run.__dict__["own_draws"] = draws  # where cached_property keeps it


def draw_alone(run: Scored) -> Scored:
    """The same run, with bootstrap draws that do not depend on which other runs were drawn with it.

    float32 sums round differently with the number of runs summed at once, which shows in the fourth decimal of a limit.
    """
    alone = replace(run, samples=run.samples or run)
    alone.__dict__["estimates"] = run.estimates  # where cached_property keeps it
    return alone


def _estimate(name: str, frame: pd.DataFrame, summary: dict[str, Any]) -> Estimate | None:
    column = columns().benchmarks.get(name)
    declared = summary.get("estimator") or (column.estimator if column else None)
    fields = {key: list(frame[key]) for key in ("id", "group", "cluster")}
    own, every = (tuple(strata(name, list(frame["stratum"]), fields, every)) for every in (False, True))
    tried = [(Estimator(), own), (Estimator(sample=0, group=100), own)]
    if declared:
        estimator = Estimator.parse(declared, f"estimator of {name}")
        # a variant may count strata that the column's own value leaves out
        tried = [(estimator, own), *([(estimator, every)] if every != own else []), *tried]
    for estimator, stratum in tried:
        estimate = Estimate(estimator, frame, stratum)
        value = estimate.units.value if estimate.units.clusters else math.nan
        # a scorer may report its value rounded to two decimals
        if math.isclose(value, float(summary["value"]), rel_tol=1e-6, abs_tol=0.006):
            return estimate
    return None

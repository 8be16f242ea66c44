"""What pretraining on another corpus changes: runs of one encoder from several corpora, with the same seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from mllm_eval.report.differences import Difference, RunPair, differences
from mllm_eval.report.evidence import Scored, draw_together
from mllm_eval.report.seedtable import SeedGroup, compare_groups, group_seeds, seed_sentences
from mllm_eval.report.table import Cell, Column, Row, Table, score_cell, signed
from mllm_eval.report.words import stars, title
from mllm_eval.results import AVERAGE, columns
from mllm_eval.stats import Interval


@dataclass(frozen=True, slots=True)
class CorpusGap:
    """A corpus minus the baseline, in points of the table. seed: None for the mean over seeds.

    differences: AVG or category -> difference with its 95 % interval: over questions for one seed, over questions and
    seeds for the mean. p: the same keys -> p, for one seed corrected by Holm over all tests of seeds.
    """

    corpus: str
    baseline: str
    seed: int | None
    differences: dict[str, Interval]
    p: dict[str, float]

    @property
    def label(self) -> str:
        """What it is over, for rows and legends."""
        return "mean over seeds" if self.seed is None else f"seed {self.seed}"


def corpus_gaps(runs: Mapping[str, Sequence[Scored]]) -> list[CorpusGap]:
    """Each corpus against the first one: for each seed that both have, and for the mean over seeds if there are two.

    runs: corpus -> its runs, one per seed, all else equal.
    """
    draw_together([run for own in runs.values() for run in own])
    baseline, *others = runs
    first = {run.record.seed: run for run in runs[baseline]}
    pairs = [(corpus, run) for corpus in others for run in runs[corpus] if run.record.seed in first]
    labels = [f"{corpus}/{run.record.seed}" for corpus, run in pairs]
    named = [
        RunPair(label, run, baseline, first[run.record.seed]) for label, (_, run) in zip(labels, pairs, strict=True)
    ]
    tested: dict[str, dict[str, Difference]] = {label: {} for label in labels}
    for one in differences(named):
        if one.key in _means():
            tested[one.a][one.key] = one
    gaps = []
    for label, (corpus, run) in zip(labels, pairs, strict=True):
        own = tested[label]
        gaps.append(CorpusGap(corpus, baseline, run.record.seed, {key: one.difference for key, one in own.items()},
                              {key: one.holm for key, one in own.items()}))  # fmt: skip
    for corpus in others:
        if len(first) > 1 and len(runs[corpus]) > 1:
            whole = compare_groups([group_seeds(name, runs[name]) for name in (corpus, baseline)])
            gaps.append(CorpusGap(corpus, baseline, None, {one.key: one.gap.difference for one in whole},
                                  {one.key: one.gap.p for one in whole}))  # fmt: skip
    # The seeds of a corpus, then their mean.
    return sorted(gaps, key=lambda gap: others.index(gap.corpus))


def corpus_table(runs: Mapping[str, Sequence[Scored]], gaps: Sequence[CorpusGap]) -> Table:
    """The gaps of `corpus_gaps` as a table, with a sentence per category on the mean over seeds."""
    shown = tuple(Column(key, title(key)) for key in _means())
    rows = []
    for gap in gaps:
        cells = {column.key: _cell(gap, column) for column in shown if column.key in gap.differences}
        rows.append(Row(gap.label, "measured", cells, group=f"{gap.corpus} minus {gap.baseline}", aside=True))
    baseline, *others = runs
    groups: list[SeedGroup] = [group_seeds(name, runs[name]) for name in runs if len(runs[name]) > 1]
    notes = (
        "[low, high]: 95 % interval; of one seed over questions, of the mean over seeds and questions. *, **, ***: p "
        "below 0.05, 0.01, 0.001; of one seed a permutation test after Holm, of the mean Welch's test.",
    )
    said = tuple(seed_sentences(groups)) if len(groups) == len(others) + 1 else ()
    return Table("text-rich", f"What another corpus than {baseline} changes", shown, tuple(rows), notes, said)


def _means() -> tuple[str, ...]:
    return (AVERAGE, *columns().categories)


def _cell(gap: CorpusGap, column: Column) -> Cell:
    one, p = gap.differences[column.key], gap.p[column.key]
    cell = score_cell(one.value, column, limits=(one.low, one.high))
    return replace(cell, text=signed(one.value, column.decimals), marks="" if math.isnan(p) else stars(p))

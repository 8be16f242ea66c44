"""The contents of the site: runs with their variants and rule sets, their tests, and the runs left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

from mllm_eval.catalog.variant import BLIND, DEFAULT
from mllm_eval.errors import UserError
from mllm_eval.report.choice import Choice, choose_one_recipe
from mllm_eval.report.comparison import compare_scored, labels
from mllm_eval.report.differences import Difference, RunPair, differences
from mllm_eval.report.evidence import Scored, draw_together, read_scored, read_variants
from mllm_eval.report.table import Table
from mllm_eval.results import AVERAGE, RunRecord, columns, hold_to_known_rules

SHOWN_VARIANTS = (DEFAULT, BLIND)


@dataclass(frozen=True)
class MenuEntry:
    """A run asked in one variant: an entry of the compare page's menus. `others`: other rule set -> scores."""

    key: str
    label: str
    scored: Scored
    others: dict[str, Scored]

    @property
    def blind(self) -> bool:
        """Whether the run was asked without images."""
        return self.scored.variant == BLIND

    @property
    def by_rules(self) -> dict[str, Scored]:
        """Rule set -> scores; the rule set of the tables comes first."""
        return {self.scored.rules: self.scored, **self.others}


@dataclass(frozen=True)
class Evidence:
    """All evidence that the pages are made of."""

    entries: tuple[MenuEntry, ...]
    rules: str
    left_out: tuple[str, ...]

    @cached_property
    def seeing(self) -> list[MenuEntry]:
        """The entries asked with images, one per run."""
        return [entry for entry in self.entries if not entry.blind]

    @cached_property
    def table(self) -> Table:
        """The table of all rows with intervals and sentences."""
        shown = {entry.scored.record.hash for entry in self.seeing}
        scored = [entry.scored for entry in self.entries if entry.scored.record.hash in shown]
        return compare_scored(scored, intervals=True, mixed_recipes=True, heading="All scores")

    @cached_property
    def differences(self) -> list[Difference]:
        """Tests of each pair of runs, corrected together (Holm): the same tests as in the table."""
        pairs = [RunPair(a.label, a.scored, b.label, b.scored) for a, b in combinations(self.seeing, 2)]
        return differences(pairs, {run.label: blind.scored for run, blind in self.blind_pairs})

    @cached_property
    def gains(self) -> list[Difference]:
        """Tests of each run against itself without images; corrected together, apart from `differences`."""
        return differences([RunPair(a.label, a.scored, b.label, b.scored) for a, b in self.blind_pairs])

    @cached_property
    def blind_pairs(self) -> list[tuple[MenuEntry, MenuEntry]]:
        """Each run that was asked blind, with its blind entry."""
        return [
            (entry, other)
            for entry in self.seeing
            for other in self.entries
            if other.blind and other.scored.record.hash == entry.scored.record.hash
        ]

    @cached_property
    def benchmarks(self) -> list[str]:
        """The benchmarks that any run was scored on: the paper's in the order of its table, then the others."""
        names = dict.fromkeys(name for entry in self.entries for name in entry.scored.benchmarks)
        known = [name for name in columns().benchmarks if name in names]
        return known + [name for name in names if name not in known]

    @cached_property
    def keys(self) -> list[str]:
        """AVG and the categories that any run has, followed by the benchmarks."""
        means = (AVERAGE, *columns().categories)
        return [key for key in means if any(key in entry.scored.values for entry in self.entries)] + self.benchmarks

    @property
    def pin(self) -> str:
        """The data pin that all runs were asked on; "" if there are no runs."""
        return self.entries[0].scored.record.data if self.entries else ""


def gather(records: Sequence[RunRecord], rules: str, asked: bool) -> Evidence:
    """Reads the evidence of the runs; unless `asked`, only of those that share one recipe.

    Raises:
        UserError: rules that no run was scored by, runs on different data, or with `asked` a run without scores.
    """
    hold_to_known_rules(records, rules)
    choice = Choice(list(records), []) if asked else choose_one_recipe(records, rules)
    scored = read_variants(choice.runs, rules, SHOWN_VARIANTS) if choice.runs else []
    pins = sorted({run.record.data for run in scored})
    if len(pins) > 1:
        raise UserError(f"the runs were asked on different data ({', '.join(pins)}); make a report of each")
    draw_together(scored)
    entries = []
    for run, label in zip(scored, labels(scored), strict=True):
        others = {
            other: read_scored(run.record, other, run.variant)
            for other in run.record.rules
            if other != rules and run.variant in run.record.variants(other)
        }
        entries.append(MenuEntry(f"{run.record.hash}{'-blind' if run.variant == BLIND else ''}", label, run, others))
    return Evidence(tuple(entries), rules, tuple(choice.left_out))

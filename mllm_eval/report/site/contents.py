"""What the site shows: runs with their variants and rule sets, their tests, what was left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

from mllm_eval.catalog.variant import BLIND, DEFAULT
from mllm_eval.errors import UserError
from mllm_eval.report.choice import Choice, choose_one_recipe
from mllm_eval.report.comparison import compare_scored, labels
from mllm_eval.report.differences import Difference, differences
from mllm_eval.report.evidence import Scored, draw_together, read_scored, read_variants
from mllm_eval.report.table import Table
from mllm_eval.results import AVERAGE, RunRecord, columns, hold_to_known_rules

SHOWN_VARIANTS = (DEFAULT, BLIND)


@dataclass(frozen=True)
class Entry:
    """A run asked in one variant: what can be chosen on the compare page. `others` are its other rule sets."""

    key: str
    label: str
    scored: Scored
    others: dict[str, Scored]

    @property
    def blind(self) -> bool:
        """Whether it was asked without images."""
        return self.scored.variant == BLIND

    @property
    def by_rules(self) -> dict[str, Scored]:
        """Rule set -> scores, that of the tables first."""
        return {self.scored.rules: self.scored, **self.others}


@dataclass(frozen=True)
class Evidence:
    """Everything of the runs that the pages are made of."""

    entries: tuple[Entry, ...]
    rules: str
    left_out: tuple[str, ...]

    @cached_property
    def seeing(self) -> list[Entry]:
        """The entries asked with images, one a run."""
        return [entry for entry in self.entries if not entry.blind]

    @cached_property
    def table(self) -> Table:
        """All rows with intervals, and the sentences."""
        shown = {entry.scored.record.hash for entry in self.seeing}
        scored = [entry.scored for entry in self.entries if entry.scored.record.hash in shown]
        return compare_scored(scored, intervals=True, mixed_recipes=True, heading="All scores")

    @cached_property
    def differences(self) -> list[Difference]:
        """Every pair of runs on all they share, Holm over all: what the table of these runs tests."""
        pairs = [(a.label, a.scored, b.label, b.scored) for a, b in combinations(self.seeing, 2)]
        return differences(pairs, {run.label: blind.scored for run, blind in self.blind_pairs})

    @cached_property
    def gains(self) -> list[Difference]:
        """Every run against itself without images; a question of its own, corrected on its own."""
        return differences([(a.label, a.scored, b.label, b.scored) for a, b in self.blind_pairs])

    @cached_property
    def blind_pairs(self) -> list[tuple[Entry, Entry]]:
        """Each run with its blind variant, where it has one."""
        return [
            (entry, other)
            for entry in self.seeing
            for other in self.entries
            if other.blind and other.scored.record.hash == entry.scored.record.hash
        ]

    @cached_property
    def benchmarks(self) -> list[str]:
        """Every benchmark that any run was scored on, in the order of the paper's table."""
        names = dict.fromkeys(name for entry in self.entries for name in entry.scored.benchmarks)
        known = [name for name in columns().benchmarks if name in names]
        return known + [name for name in names if name not in known]

    @cached_property
    def keys(self) -> list[str]:
        """AVG and categories that any run has, then the benchmarks."""
        means = (AVERAGE, *columns().categories)
        return [key for key in means if any(key in entry.scored.values for entry in self.entries)] + self.benchmarks

    @property
    def pin(self) -> str:
        """The data that the runs were asked on."""
        return self.entries[0].scored.record.data if self.entries else ""


def gather(records: Sequence[RunRecord], rules: str, asked: bool) -> Evidence:
    """The evidence of runs: those of one recipe, unless they were asked for by name.

    Raises:
        UserError: rules that no run was scored by, runs on different data, or a run that was asked for and has no
            scores.
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
        entries.append(Entry(f"{run.record.hash}{'-blind' if run.variant == BLIND else ''}", label, run, others))
    return Evidence(tuple(entries), rules, tuple(choice.left_out))

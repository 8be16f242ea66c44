"""What eval, compare and table print, and write to results/tables."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace

from mllm_eval import pipeline
from mllm_eval.errors import UserError
from mllm_eval.report import Table, chance_table, named_table, render, write_tables
from mllm_eval.run import Run
from mllm_eval.storage import results_home


def print_row(run: Run, rules: str, blind: bool) -> None:
    """The row of a run, its blind row, and which benchmarks are above chance."""
    table = replace(pipeline.table([run], rules, blind), title=f"{run.encoder.name}, recipe {run.recipe.name}")
    _show(table, f"{run.encoder.name}-{run.recipe.name}-s{run.seed}", rules)
    above = chance_table(run.folder, rules)
    print(*above.sentences, sep="\n")


def print_comparison(
    runs: Sequence[Run], rules: str, blind: bool, baseline: str | None, intervals: bool, mixed: bool
) -> None:
    """One table of runs, with tests between them."""
    if not runs:
        raise UserError(f"no runs under {results_home()} yet; `mllm-eval eval mini-dino` makes one")
    _show(pipeline.table(runs, rules, blind, baseline, intervals, mixed), "compare", rules)


def print_named(
    name: str, runs: Sequence[Run] | None, rules: str, baseline: str | None, intervals: bool, mixed: bool
) -> None:
    """A table of configs/tables, with the runs that belong into it."""
    folders = None if runs is None else [run.folder for run in runs]
    table = named_table(
        name,
        rules=rules,
        intervals=intervals,
        baseline=baseline,
        mixed_recipes=mixed,
        runs=folders,
    )
    _show(table, name, rules)


def _show(table: Table, stem: str, rules: str) -> None:
    print(render(table, "terminal"), end="")
    stem = stem if rules == "cambrian" else f"{stem}.{rules}"
    written = write_tables(table, results_home() / "tables", stem)
    endings = ", ".join(path.suffix for path in written)
    print(f"written: {results_home() / 'tables' / stem} ({endings})", file=sys.stderr)

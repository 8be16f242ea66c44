"""What eval, compare and table print, and write to results/tables."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mllm_eval import pipeline
from mllm_eval.catalog.variant import VariantKey
from mllm_eval.distributed.ranks import rank
from mllm_eval.errors import UserError
from mllm_eval.external import saved_models, unreadable_notes
from mllm_eval.report import Table, chance_table, named_table, render, write_tables
from mllm_eval.report.choice import one_recipe
from mllm_eval.report.cost import with_costs
from mllm_eval.report.details import details_table
from mllm_eval.report.evidence import read_scored
from mllm_eval.report.gain import with_gains
from mllm_eval.report.given import one_answer_words
from mllm_eval.report.variants import variants_table
from mllm_eval.run import RunFolder, saved_runs
from mllm_eval.storage import results_home, write_atomic


def print_row(run: RunFolder, rules: str, blind: bool, subset: int | None = None) -> None:
    """The row of a run, its blind row, and which benchmarks are above chance; of several processes rank 0 prints it."""
    if rank():
        return
    table = replace(pipeline.table([run], rules, blind, subset=subset), title=run.heading)
    print_and_write(table, run.stem, rules, subset)
    variant = str(VariantKey.of("default", subset))
    print(*chance_table(run.folder, rules, variant, intervals=False).sentences, sep="\n")
    if words := one_answer_words(read_scored(run.folder, rules, variant)):
        print(f"{words[0].upper()}{words[1:]}.")


def print_compared(
    runs: Sequence[RunFolder], rules: str, blind: bool, baseline: str | None, intervals: bool, subset: int | None
) -> None:
    """Runs in one table; of several processes rank 0 prints it."""
    if not rank():
        print_and_write(of_runs(runs, rules, blind, baseline, intervals, False, subset), "compare", rules, subset)


def of_runs(
    runs: Sequence[RunFolder],
    rules: str,
    blind: bool,
    baseline: str | None,
    intervals: bool,
    mixed: bool,
    subset: int | None = None,
    whole: bool = False,
) -> Table:
    """One table of runs, with tests between them."""
    if not runs:
        asked = "eval mini-dino" + (f" --subset {subset}" if subset else "")
        raise UserError(f"no runs under {results_home()} to show; `mllm-eval {asked}` makes one")
    return pipeline.table(runs, rules, blind, baseline, intervals, mixed, subset, whole)


def of_all(
    runs: Sequence[RunFolder],
    rules: str,
    blind: bool,
    baseline: str | None,
    intervals: bool,
    mixed: bool,
    subset: int | None = None,
    whole: bool = False,
) -> Table:
    """As `of_runs`, of the recipe that most scored runs share; the notes say what was left out."""
    variants = pipeline.shown_variants(False, subset, whole)
    kept, left_out = one_recipe([run.folder for run in runs], rules, mixed, variants)
    chosen = [run for run in runs if run.folder in kept]
    if not chosen and left_out:
        raise UserError(f"no runs under {results_home()} to show. {' '.join(left_out)}")
    table = of_runs(chosen, rules, blind, baseline, intervals, mixed, subset, whole)
    return replace(table, notes=(*table.notes, *left_out))


def with_left_out(table: Table) -> Table:
    """The table of all runs with a note for each whose config no longer loads."""
    return replace(table, notes=(*table.notes, *unreadable_notes()))


def costed(table: Table) -> Table:
    """The table with the cost of a question in each measured row."""
    folders = {row.facts["run"]: results_home() / "runs" / row.facts["run"] for row in table.rows if row.facts}
    return with_costs(table, folders)


def gained(table: Table, rules: str) -> Table:
    """The table with a row of visual gains below each run that was asked blind, too."""
    return with_gains(table, {run.folder.name: run.folder for run in (*saved_runs(), *saved_models())}, rules)


def detailed(runs: Sequence[RunFolder], rules: str, blind: bool, subset: int | None = None) -> Table:
    """What stands behind each cell of the runs' table."""
    variants = pipeline.shown_variants(blind, subset)
    return details_table([run.folder for run in runs], rules, variants)


def of_variants(runs: Sequence[RunFolder], benchmark: str, rules: str) -> Table:
    """The variants of a benchmark side by side."""
    return variants_table([run.folder for run in runs], benchmark, rules)


def named(
    name: str,
    runs: Sequence[RunFolder] | None,
    rules: str,
    baseline: str | None,
    intervals: bool,
    mixed: bool,
    published_only: bool,
    subset: int | None = None,
) -> Table:
    """A table of configs/tables, with the runs that belong into it."""
    return named_table(
        name,
        published_only,
        rules,
        intervals,
        baseline,
        mixed,
        runs=None if runs is None else [run.folder for run in runs],
        subset=subset,
    )


def put(table: Table, form: str, out: Path | None) -> None:
    """Print a table in a format, or write it to a file."""
    text = render(table, form)
    if out is None:
        print(text, end="")
    else:
        write_atomic(out, text)


def print_and_write(table: Table, stem: str, rules: str, subset: int | None = None) -> None:
    """Print a table, and write it in every format to results/tables."""
    put(table, "terminal", None)
    stem = str(VariantKey.of(stem, subset))
    stem = stem if rules == "cambrian" else f"{stem}.{rules}"
    written = write_tables(table, results_home() / "tables", stem)
    endings = ", ".join(path.suffix for path in written)
    print(f"written: {results_home() / 'tables' / stem} ({endings})", file=sys.stderr)

"""What eval, compare and table print, and write to results/tables."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import typer

from mllm_eval import pipeline
from mllm_eval.catalog.variant import DEFAULT, VariantKey
from mllm_eval.console import say
from mllm_eval.distributed.ranks import rank
from mllm_eval.errors import UserError
from mllm_eval.report import Table, TableOptions, chance_table, comparison, render, write_tables
from mllm_eval.report.choice import choose_one_recipe
from mllm_eval.report.cost import with_costs
from mllm_eval.report.details import details_table
from mllm_eval.report.evidence import read_scored
from mllm_eval.report.gain import with_gains
from mllm_eval.report.given import one_answer_words
from mllm_eval.report.notes import failed_words
from mllm_eval.report.withoutleaked import leaks_table
from mllm_eval.results import Records, RunRecord, record_of
from mllm_eval.saved import Saved
from mllm_eval.storage import results_home, write_atomic


def print_row(run: Saved, rules: str, blind: bool, subset: int | None = None) -> None:
    """The row of a run, its blind row, and which benchmarks are above chance; of several processes rank 0 prints it.

    Raises typer.Exit with code 1 where too many samples failed: not all that was asked for is there.
    """
    if rank():
        return
    record = record_of(run)
    table = table_of([record], TableOptions(rules, subset=subset), blind)
    print_and_write(replace(table, title=run.heading), run.stem, rules, subset)
    variant = VariantKey.of(DEFAULT.name, subset)
    say(*chance_table(record, rules, variant, intervals=False).sentences, sep="\n")
    scored = read_scored(record, rules, variant)
    if words := one_answer_words(scored):
        say(f"{words[0].upper()}{words[1:]}.")
    if scored.failing:
        say(f"mllm-eval: {'; '.join(failed_words(scored))}; `show --failed` lists them", file=sys.stderr)
        raise typer.Exit(1)


def print_compared(records: Sequence[RunRecord], options: TableOptions, blind: bool) -> None:
    """Runs in one table; of several processes rank 0 prints it."""
    if not rank():
        print_and_write(table_of(records, options, blind), "compare", options.rules, options.subset)


def table_of(records: Sequence[RunRecord], options: TableOptions, blind: bool, whole: bool = False) -> Table:
    """One table of runs, with tests between them."""
    if not records:
        asked = "eval mini-dino" + (f" --subset {options.subset}" if options.subset else "")
        raise UserError(f"no runs under {results_home()} to show; `mllm-eval {asked}` makes one")
    variants = pipeline.shown_variants(blind, options.subset, whole)
    return comparison(records, options.baseline, options.rules, variants, options.intervals, options.mixed_recipes)


def table_of_all(records: Records, options: TableOptions, blind: bool, whole: bool = False) -> Table:
    """As `table_of`, of the recipe that most scored runs share; the notes say what was left out."""
    variants = pipeline.shown_variants(False, options.subset, whole)
    choice = choose_one_recipe(records.every, options.rules, options.mixed_recipes, variants)
    left_out = [*choice.left_out, *records.notes]
    if not choice.runs and left_out:
        raise UserError(f"no runs under {results_home()} to show. {' '.join(left_out)}")
    table = table_of(choice.runs, options, blind, whole)
    return replace(table, notes=(*table.notes, *left_out))


def with_left_out(table: Table, records: Records) -> Table:
    """The table of all runs with a note for each whose config no longer loads."""
    return replace(table, notes=(*table.notes, *records.notes))


def with_own_costs(table: Table, records: Records) -> Table:
    """The table with the cost of a question in each measured row."""
    return with_costs(table, {record.hash: record for record in records.every})


def with_own_gains(table: Table, records: Records, rules: str) -> Table:
    """The table with a row of visual gains below each run that was asked blind, too."""
    return with_gains(table, {record.hash: record for record in records.every}, rules)


def detail(records: Sequence[RunRecord], rules: str, blind: bool, subset: int | None = None) -> Table:
    """What stands behind each cell of the runs' table."""
    return details_table(records, rules, pipeline.shown_variants(blind, subset))


def without_leaks(records: Sequence[RunRecord], corpus: str, kind: str, rules: str, subset: int | None = None) -> Table:
    """The runs' scores beside those without leaked samples."""
    return leaks_table(records, corpus, kind, rules, pipeline.shown_variants(False, subset))


def put(table: Table, form: str, out: Path | None) -> None:
    """Print a table in a format, or write it to a file."""
    text = render(table, form)
    if out is None:
        say(text, end="")
    else:
        write_atomic(out, text)


def print_and_write(table: Table, stem: str, rules: str, subset: int | None = None) -> None:
    """Print a table, and write it in every format to results/tables."""
    put(table, "terminal", None)
    stem = stem if subset is None else f"{stem}@{subset}"
    stem = stem if rules == "cambrian" else f"{stem}.{rules}"
    written = write_tables(table, results_home() / "tables", stem)
    endings = ", ".join(path.suffix for path in written)
    say(f"written: {results_home() / 'tables' / stem} ({endings})", file=sys.stderr)

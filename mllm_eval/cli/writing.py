"""Tables that eval, compare, table, probe and align print, and write to results/tables."""

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
    """Print the row of a run, its blind row, and which benchmarks are above chance. Only rank 0 prints.

    Raises typer.Exit with code 1 if too many samples failed, because the result is then incomplete.
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
    """Print runs in one table, and write it to results/tables. Only rank 0 does so."""
    if not rank():
        print_and_write(table_of(records, options, blind), "compare", options.rules, options.subset)


def table_of(records: Sequence[RunRecord], options: TableOptions, blind: bool, whole: bool = False) -> Table:
    """One table of runs, with tests of their differences.

    blind: with blind rows. whole: with the rows of all questions next to those of the subset in `options`.

    Raises UserError if there are no runs.
    """
    if not records:
        asked = "eval mini-dino" + (f" --subset {options.subset}" if options.subset else "")
        raise UserError(f"no runs under {results_home()} to show; `mllm-eval {asked}` makes one")
    variants = pipeline.shown_variants(blind, options.subset, whole)
    return comparison(records, options.baseline, options.rules, variants, options.intervals, options.mixed_recipes)


def table_of_all(records: Records, options: TableOptions, blind: bool, whole: bool = False) -> Table:
    """As `table_of`, of all runs of the recipe that most scored runs share; notes name the runs that are left out."""
    variants = pipeline.shown_variants(False, options.subset, whole)
    choice = choose_one_recipe(records.every, options.rules, options.mixed_recipes, variants)
    left_out = [*choice.left_out, *records.notes]
    if not choice.runs and left_out:
        raise UserError(f"no runs under {results_home()} to show. {' '.join(left_out)}")
    table = table_of(choice.runs, options, blind, whole)
    return replace(table, notes=(*table.notes, *left_out))


def with_left_out(table: Table, records: Records) -> Table:
    """Add a note for each run whose config no longer loads."""
    return replace(table, notes=(*table.notes, *records.notes))


def with_own_costs(table: Table, records: Records) -> Table:
    """Add the cost per question to each row that is a run."""
    return with_costs(table, {record.hash: record for record in records.every})


def with_own_gains(table: Table, records: Records, rules: str) -> Table:
    """Add a row of visual gains (score - blind score) below each run that was also asked without images."""
    return with_gains(table, {record.hash: record for record in records.every}, rules)


def detail(records: Sequence[RunRecord], rules: str, blind: bool, subset: int | None = None) -> Table:
    """A table of the details of each score: sample counts, chance level, and protocol hash."""
    return details_table(records, rules, pipeline.shown_variants(blind, subset))


def without_leaks(records: Sequence[RunRecord], corpus: str, kind: str, rules: str, subset: int | None = None) -> Table:
    """A table of the runs' scores next to their scores without leaked samples.

    corpus: `training`, or the name of a folder given to `leaks --against`. kind: pictures, questions, both or either.
    """
    return leaks_table(records, corpus, kind, rules, pipeline.shown_variants(False, subset))


def put(table: Table, form: str, out: Path | None) -> None:
    """Print a table, or write it to the file `out`. form: terminal, csv, md, tex or html."""
    text = render(table, form)
    if out is None:
        say(text, end="")
    else:
        write_atomic(out, text)


def print_and_write(table: Table, stem: str, rules: str, subset: int | None = None) -> None:
    """Print a table, and write it in every format to results/tables/STEM, with subset and rule set in the name."""
    put(table, "terminal", None)
    stem = stem if subset is None else f"{stem}@{subset}"
    stem = stem if rules == "cambrian" else f"{stem}.{rules}"
    written = write_tables(table, results_home() / "tables", stem)
    endings = ", ".join(path.suffix for path in written)
    say(f"written: {results_home() / 'tables' / stem} ({endings})", file=sys.stderr)

"""Details that `mllm-eval show` prints below the scores: scores of parts, and counts of the given answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mllm_eval.catalog.variant import VariantKey
    from mllm_eval.results import RunRecord

WIDEST = 12
"""Largest number of characters of an answer in the table of all benchmarks."""


def print_parts(console: Any, own: Mapping[str, Mapping[str, Any]]) -> None:
    """Print a line with the scores of its parts (such as question types) for each benchmark that has parts."""
    from mllm_eval.report.parts import number, parts
    from mllm_eval.report.words import title

    for name, summary in own.items():
        said = [f"{part.name} {number(part.value)}" for part in parts(summary) if part.value is not None]
        if said:
            console.print(f"{title(name)}: {', '.join(said)}", markup=False)


def most_frequent_answer(record: RunRecord, summary: dict[str, Any]) -> str:
    """The most frequent answer and its share; `!` marks a majority that is far more frequent than its gold."""
    from mllm_eval.distribution import one_answer
    from mllm_eval.report.given import top_answer

    given = record.given(summary)
    text, _, share = top_answer(given).rpartition(" ")
    # A whole sentence would push the other columns off the screen.
    said = f"{text if len(text) <= WIDEST else text[: WIDEST - 1] + '…'} {share}" if share else "-"
    return f"{said} !" if one_answer(given) else said


def print_warning(console: Any, record: RunRecord, rules: str, variant: VariantKey) -> None:
    """Print a warning that names the benchmarks on which most answers are one and the same."""
    from mllm_eval.report.evidence import read_scored
    from mllm_eval.report.given import one_answer_words

    if words := one_answer_words(read_scored(record, rules, variant)):
        console.print(f"!: {words}", markup=False)


def print_benchmark(console: Any, record: RunRecord, summary: dict[str, Any]) -> None:
    """Print the details of one score: its parts, the given answers, the golds, and a confusion matrix."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from mllm_eval.report.given import confusion, most_frequent
    from mllm_eval.report.parts import number, parts
    from mllm_eval.report.words import title

    heading = f"{title(summary['benchmark'])}, {summary['rules']} rules, {summary['variant']}"
    value = "no value" if summary["value"] is None else f"{summary['value']:.1f}"
    counts = f"{summary['n'] - summary['n_failed']}/{summary['n']} answers scored, {summary['n_unparsed']} unparsed"
    console.print(f"{heading}: {value}, chance {number(summary['chance'])}, {counts}", markup=False)
    if rows_of_parts := parts(summary):
        sheet = Table(box=SIMPLE_HEAD, pad_edge=False)
        for name in ("part", "value", "n", "more"):
            sheet.add_column(name, justify="right" if name in ("value", "n") else "left")
        for part in rows_of_parts:
            value = "" if part.value is None else number(part.value)
            sheet.add_row(part.name, value, "" if part.n is None else f"{part.n:,}", part.words)
        console.print(sheet)
    given = record.given(summary)
    console.print(f"answers: {most_frequent(given)}", markup=False)
    if golds := given.get("golds"):
        console.print(f"golds: {most_frequent({'answers': golds})}", markup=False)
    else:
        console.print("Scored by an older version, which did not count the golds: `mllm-eval score` counts them.")
    head, rows = confusion(given)
    if rows:
        console.print("rows: the gold; columns: the answer")
        sheet = Table(box=SIMPLE_HEAD, pad_edge=False)
        for name in head:
            sheet.add_column(name, justify="left" if name == "gold" else "right")
        for row in rows:
            sheet.add_row(*row)
        console.print(sheet)

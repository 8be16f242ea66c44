"""The table of details: for each value the samples, failed and unparsed answers, chance level and protocol."""

from __future__ import annotations

from collections.abc import Sequence

from mllm_eval.catalog.variant import DEFAULT, VariantKey
from mllm_eval.report.comparison import labels
from mllm_eval.report.evidence import Scored, read_variants
from mllm_eval.report.given import one_answer_words, top_answer
from mllm_eval.report.parts import parts
from mllm_eval.report.table import Cell, Column, Row, Table, score_cell
from mllm_eval.report.words import title
from mllm_eval.results import RunRecord

COUNTS = {"n": "n", "n_failed": "failed", "n_unparsed": "unparsed", "n_empty": "empty"}


def details_table(
    runs: Sequence[RunRecord], rules: str = "cambrian", variants: Sequence[VariantKey] = (DEFAULT,), decimals: int = 2
) -> Table:
    """One row for each value of each run, followed by rows for its parts, grouped by run.

    Raises:
        UserError: no runs, or nothing scored by these rules.
    """
    scored = read_variants(runs, rules, variants)
    value, chance = Column("value", "Value", decimals=decimals), Column("chance", "Chance", decimals=decimals)
    # Scores of earlier versions did not count empty answers.
    known = {key for run in scored for summary in run.summaries.values() for key in summary}
    counts = [Column(key, heading, decimals=0) for key, heading in COUNTS.items() if key in known]
    most = Column("most_frequent_answer", "Most frequent answer", text=True)
    protocol, digest = Column("protocol", "Protocol", text=True), Column("protocol_hash", "Hash", text=True)
    shown = (value, chance, *counts, most, protocol, digest)
    named = list(zip(scored, labels(scored), strict=True))
    rows = [
        row
        for run, label in named
        for name in [*run.benchmarks, *(other for other in run.summaries if other not in run.benchmarks)]
        for row in (_row(run, label, name, shown), *_parts(run, label, name, shown))
    ]
    notes = [
        "failed: no answer, counts nowhere; unparsed: scored, but nothing could be read; empty: answers without a "
        "character, scored as well. Chance: guessing without the image, on the value's own scale. Below a benchmark: "
        "the parts of its value, as its report gives them.",
    ]
    notes += [f"{label}: {words}." for run, label in named if (words := one_answer_words(run))]
    return Table("details", f"Behind each cell: {rules} rules", shown, tuple(rows), tuple(notes))


def _row(run: Scored, label: str, name: str, shown: Sequence[Column]) -> Row:
    summary = run.summaries[name]
    own = {**summary, "most_frequent_answer": _most_frequent_answer(run, name)}
    cells = {
        column.key: Cell(str(own[column.key])) if column.text else score_cell(_number(own.get(column.key)), column)
        for column in shown
    }
    facts = {"run": run.record.hash, "rules": run.rules, "variant": str(run.variant)}
    partial = ("partial: groups that are not whole, or samples without a score, count nowhere",)
    return Row(title(name), "measured", cells, label, notes=partial if summary.get("partial") else (), facts=facts)


def _parts(run: Scored, label: str, name: str, shown: Sequence[Column]) -> list[Row]:
    """A row for each part of a benchmark's value."""
    facts = {"run": run.record.hash, "rules": run.rules, "variant": str(run.variant)}
    own, rows = {column.key: column for column in shown}, []
    for part in parts(run.summaries[name]):
        values = {"value": part.value, "n": part.n}
        cells = {key: score_cell(value, own[key]) for key, value in values.items() if value is not None}
        cells = {column.key: cells.get(column.key, Cell("")) for column in shown}
        rows.append(Row(f"{title(name)}: {part.name}", "measured", cells, label, facts=facts))
    return rows


def _most_frequent_answer(run: Scored, name: str) -> str:
    """The most frequent answer with its share."""
    return top_answer(run.record.given(run.summaries[name]))


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None

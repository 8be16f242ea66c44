"""The table of one benchmark's variants: other prompts, counts and releases, blind, shuffled."""

from __future__ import annotations

from collections.abc import Sequence

from mllm_eval.catalog import load_benchmark
from mllm_eval.catalog.benchmark import GENERIC
from mllm_eval.catalog.variant import DEFAULT, VariantKey
from mllm_eval.errors import UserError
from mllm_eval.report.comparison import labels, measured_row
from mllm_eval.report.evidence import read_scored
from mllm_eval.report.table import Column, Row, Table, score_cell
from mllm_eval.results import RunRecord


def variants_table(runs: Sequence[RunRecord], benchmark: str, rules: str = "cambrian", decimals: int = 1) -> Table:
    """One row per run, and one column per variant of the benchmark that any of the runs was scored in.

    Raises:
        UserError: an unknown benchmark, no runs, or no run scored on it by these rules.
    """
    chosen = load_benchmark(benchmark)
    values: dict[RunRecord, dict[VariantKey, float | None]] = {}
    for record in runs:
        own = {one: record.summaries(rules, one).get(benchmark) for one in record.variants(rules)}
        values[record] = {one: summary["value"] for one, summary in own.items() if summary is not None}
    kept = [record for record in runs if values[record]]
    if not kept:
        raise UserError(f"no run was scored on {benchmark} by {rules!r} rules; `mllm-eval eval ... --benchmarks` does")
    order = [DEFAULT.name, *chosen.variants, *(name for name in GENERIC if name != DEFAULT.name)]
    names = [name for name in dict.fromkeys(order) if any(VariantKey(name) in values[record] for record in kept)]
    shown = tuple(Column(name, name.replace("_", " "), decimals=decimals, group=chosen.title) for name in names)
    scored = [read_scored(record, rules, next(iter(values[record]))) for record in kept]
    rows = []
    for record, run, label in zip(kept, scored, labels(scored), strict=True):
        cells = {column.key: score_cell(values[record].get(VariantKey(column.key)), column) for column in shown}
        facts = {**measured_row(run, label, (), False).facts, "variant": ", ".join(map(str, values[record]))}
        rows.append(Row(label, "measured", cells, facts=facts))
    abouts = {name: chosen.variant(VariantKey(name)).about for name in names}
    about = [f"{name.replace('_', ' ')}: {words}." for name, words in abouts.items() if words]
    missing = [name for name in chosen.variants if name not in names]
    if missing:
        about.append(f"Not asked: {', '.join(missing)}; `mllm-eval eval ... --variants {','.join(missing)}` asks them.")
    return Table("variants", f"{chosen.title}: variants, {rules} rules", shown, tuple(rows), tuple(about))

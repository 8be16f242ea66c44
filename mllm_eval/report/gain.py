"""Visual gain: a run's value minus its value on the same questions without the images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mllm_eval.catalog.variant import BLIND, DEFAULT, VariantKey
from mllm_eval.report.differences import RunPair, differences
from mllm_eval.report.evidence import Scored, draw_alone, read_scored
from mllm_eval.report.table import Cell, Column, Row, Table, score_cell, signed
from mllm_eval.results import RunRecord
from mllm_eval.stats import Interval


def gains(run: Scored, blind: Scored) -> dict[str, Interval]:
    """Benchmark, category or AVG -> visual gain with its 95 % interval, on the scale that the table prints.

    The bootstrap draws the same images for both runs (paired, clustered). The limits are nan if the value can't be
    computed from the samples. There is no entry if either run lacks the benchmark.
    """
    added = {
        key: Interval(value - blind.values[key], float("nan"), float("nan"))
        for key, value in run.values.items()
        if key in blind.values
    }
    tested = differences([RunPair("seeing", run, BLIND.name, blind)])
    return added | {one.key: one.difference for one in tested if one.key in added}


def with_gains(table: Table, records: Mapping[str, RunRecord], rules: str = "cambrian") -> Table:
    """Adds a row of visual gains below each run's row. `records`: run hash -> run.

    Published rows get none. A note names the runs that were never asked blind.
    """
    rows: list[Row] = []
    lacking: list[str] = []
    for row in table.rows:
        rows.append(row)
        record = records.get(row.facts.get("run", ""))
        asked = VariantKey.parse(row.facts.get("variant", ""))
        if record is None or asked.name != DEFAULT.name:
            continue
        blind = asked.named(BLIND.name)
        if blind not in record.variants(rules):
            lacking.append(row.label)
            continue
        pair = (draw_alone(read_scored(record, rules, variant)) for variant in (asked, blind))
        added = gains(*pair)
        rows.append(_row(row, added, table.columns))
    notes = list(table.notes)
    if len(rows) > len(table.rows):
        notes.append("Visual gain: score minus blind score; 95 % interval, paired bootstrap clustered by image.")
    if lacking:
        notes.append(f"No visual gain without blind answers: {', '.join(lacking)}; `mllm-eval eval ... --blind`.")
    return Table(table.name, table.title, table.columns, tuple(rows), tuple(notes), table.sentences)


def _row(row: Row, added: Mapping[str, Interval], shown: Sequence[Column]) -> Row:
    cells = {}
    for column in shown:
        if column.text or column.key not in added:
            cells[column.key] = Cell("") if column.text else Cell()
            continue
        one = added[column.key]
        cell = score_cell(one.value, column, limits=(one.low, one.high))
        cells[column.key] = Cell(signed(one.value, column.decimals), one.value, low=cell.low, high=cell.high,
                                 interval=cell.interval)  # fmt: skip
    facts = {**row.facts, "variant": "gain"}
    return Row(f"{row.label}: visual gain", row.source, cells, row.group, aside=True, facts=facts)

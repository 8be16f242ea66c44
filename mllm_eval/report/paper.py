"""The named tables of configs/tables/*.yaml: published rows, and the measured runs that match."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from mllm_eval.catalog.folders import roots
from mllm_eval.catalog.variant import BLIND, DEFAULT, VariantKey
from mllm_eval.config import Strict, load
from mllm_eval.errors import UserError, near
from mllm_eval.report.comparison import compare_scored, held_equal, labels, measured_row
from mllm_eval.report.counted import Ways, as_counted, beside, counted_notes, ways_of
from mllm_eval.report.evidence import Scored, draw_together, read_scored, read_variants
from mllm_eval.report.notes import shared_notes, subset_notes
from mllm_eval.report.table import (
    Cell,
    Column,
    Rounding,
    Row,
    Table,
    score_cell,
    with_best,
    with_deltas,
)
from mllm_eval.report.tableoptions import AS_PRINTED, TableOptions
from mllm_eval.results import AVERAGE, RunRecord, columns, contradiction, published, read_records, values
from mllm_eval.results.published import number


class PublishedRows(Strict):
    """Rows of a csv of published numbers.

    `where`: column -> allowed texts. `label` and `group` are templates that the row's columns fill. `note`: label ->
    footnote.
    """

    file: str
    where: dict[str, list[str]] = Field(default_factory=dict)
    label: str = "{model}"
    group: str = ""
    note: dict[str, str] = Field(default_factory=dict)


class MeasuredRows(Strict):
    """The runs whose encoder, recipe, LLM and data pin match these shell patterns, such as `webssl-*`."""

    encoder: str = "*"
    recipe: str = "*"
    llm: str = "*"
    data: str = "*"
    group: str = "Measured here"


class Delta(Strict):
    """Adds differences to the row with this label, in these columns (default: all)."""

    row: str
    columns: list[str] | None = None


class TableConfig(Strict):
    """A table as its yaml describes it. `decimals`: column -> digits, with `default` for all others."""

    name: str
    title: str
    source: str = ""
    columns: list[str] = Field(default_factory=list)
    decimals: dict[str, int] = Field(default_factory=dict)
    rounding: Rounding = "round"
    best: Literal["table", "group", "none"] = "table"
    published: list[PublishedRows] = Field(default_factory=list)
    measured: list[MeasuredRows] = Field(default_factory=list)
    delta: Delta | None = None
    notes: list[str] = Field(default_factory=list)


def table_names() -> list[str]:
    """The names that `named_table` knows."""
    return sorted(_files())


def _files() -> dict[str, Path]:
    files: dict[str, Path] = {}
    for root in roots():
        files = {**{path.stem: path for path in sorted(root.glob("configs/tables/*.yaml"))}, **files}
    return files


def named_table(
    name: str,
    published_only: bool = False,
    runs: Sequence[RunRecord] | None = None,
    options: TableOptions = AS_PRINTED,
) -> Table:
    """A table of configs/tables, with the runs that match it (default: of the trained runs under results/runs).

    A table without published rows is a comparison of its runs, with tests and sentences. With `options.subset`, the
    measured rows are those of `mllm-eval eval --subset`.

    Raises:
        UserError: unknown table or column, no runs for a table that needs them, or runs of different recipes.
    """
    files = _files()
    if name not in files:
        raise UserError(f"unknown table {name!r}.{near(name, files)} Known: {', '.join(sorted(files))}")
    config = load(files[name], TableConfig)
    variant = VariantKey.of(DEFAULT.name, options.subset)
    records: list[RunRecord] = []
    if not published_only:
        records = _matching(config, options.rules, read_records().trained if runs is None else runs, variant)
    if not config.published:
        if not records:
            rules = options.rules
            raise UserError(f"table {name!r} shows runs, and none is scored by {rules!r} rules: run `make eval` first")
        scored = read_variants(records, options.rules, (variant, variant.named(BLIND.name)))
        return compare_scored(scored, options.baseline, options.intervals, options.mixed_recipes, config.title)
    scored = [read_scored(record, options.rules, variant) for record in records]
    return _with_published(config, _columns(config, files[name]), scored, options)


def _matching(config: TableConfig, rules: str, runs: Sequence[RunRecord], variant: VariantKey) -> list[RunRecord]:
    matching = []
    for record in runs:
        if variant not in record.variants(rules):
            continue
        mine = (record.encoder, record.recipe, record.llm, record.data)
        asked = ((query.encoder, query.recipe, query.llm, query.data) for query in config.measured)
        if any(all(map(fnmatch, mine, patterns)) for patterns in asked):
            matching.append(record)
    return sorted(matching, key=lambda record: (record.name, record.folder))


def _columns(config: TableConfig, file: Path | str) -> tuple[Column, ...]:
    known = columns()
    named = known.named()
    shown = []
    for key in config.columns:
        if key not in named:
            raise UserError(f"table {config.name!r} ({file}): unknown column {key!r}.{near(key, named)}")
        benchmark = known.benchmarks.get(key)
        shown.append(
            Column(
                key,
                named[key].title,
                text=key in known.facts,
                decimals=_decimals(config, key, named[key].decimals),
                better=named[key].better,
                group=known.categories[benchmark.category].title if benchmark else "",
            )
        )
    return tuple(shown)


def _decimals(config: TableConfig, key: str, own: int | None) -> int:
    default = config.decimals.get("default", 1)
    return config.decimals.get(key, default if own is None else own)


def _with_published(
    config: TableConfig, shown: tuple[Column, ...], runs: Sequence[Scored], options: TableOptions
) -> Table:
    rows = [row for part in config.published for row in published_rows(part, shown, config.rounding)]
    ways = ways_of([part.file for part in config.published], {column.key for column in shown})
    if runs:
        held_equal(runs, options.mixed_recipes)
        if options.intervals:
            draw_together(runs)
        rows += _measured_rows(runs, shown, config, options.intervals, ways)
    rows = with_best(rows, shown, config.best)
    delta = Delta(row=options.baseline) if options.baseline else config.delta
    if delta:
        if delta.row not in [row.label for row in rows]:
            raise UserError(
                f"table {config.name!r} has no row {delta.row!r}.{near(delta.row, [r.label for r in rows])}"
            )
        rows = with_deltas(rows, shown, delta.row, delta.columns)
    notes = [f"Published: {config.source}."] if config.source else []
    notes += [*config.notes, *counted_notes(ways, measured=bool(runs))]
    notes += [*shared_notes(runs), *subset_notes(runs)] if runs else ["All rows are published; none was measured here."]
    return Table(config.name, config.title, shown, tuple(rows), tuple(notes))


def _measured_rows(
    runs: Sequence[Scored], shown: Sequence[Column], config: TableConfig, intervals: bool, ways: Ways
) -> list[Row]:
    rows = []
    for run, label in zip(runs, labels(runs), strict=True):
        rows += beside(run, measured_row(run, label, shown, intervals), shown, intervals, ways)
    return [replace(row, group=config.measured[0].group) for row in rows]


def published_rows(part: PublishedRows, shown: Sequence[Column], rounding: Rounding = "round") -> list[Row]:
    """The rows of a csv, with these columns. Raises UserError for an unknown column, or if no row matches."""
    frame = published(part.file)
    for key, allowed in part.where.items():
        if key not in frame.columns:
            raise UserError(f"{part.file}: no column {key!r}.{near(key, map(str, frame.columns))}")
        frame = frame[frame[key].isin(allowed)]
    rows = []
    for index, line in frame.iterrows():
        where = f"{part.file}:{int(str(index)) + 2}"
        record = {str(key): str(value) for key, value in line.items()}
        label = _filled(part.label, record, where)
        counted = columns().means(values(line, where))
        cells = {}
        for column in shown:
            text = record.get(column.key, "")
            if column.text:
                cells[column.key] = Cell(text)
                continue
            value = number(text, f"{where}, {column.key}")
            if column.key not in record:
                value = counted.get(column.key)
            cells[column.key] = score_cell(value, column, rounding)
        wrong = contradiction(line, where) if AVERAGE in record else None
        notes = tuple(text for text in (wrong, part.note.get(label)) if text)
        row = Row(label, "published", cells, _filled(part.group, record, where), notes=notes)
        rows.append(as_counted(row, columns().counted_as(part.file)))
    if not rows:
        raise UserError(f"{part.file}: no row matches {part.where}")
    return rows


def _filled(template: str, record: dict[str, Any], where: str) -> str:
    try:
        return template.format_map(record).strip()
    except (KeyError, ValueError, IndexError) as error:
        raise UserError(f"{where}: the label {template!r} names a column that is not there ({error})") from None

"""Adds a second row to a run where the published rows count a benchmark differently: it counts as they do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path

from mllm_eval.catalog import load_benchmark
from mllm_eval.catalog.variant import VariantKey
from mllm_eval.report.comparison import measured_row
from mllm_eval.report.evidence import Scored
from mllm_eval.report.table import Column, Row
from mllm_eval.report.words import title
from mllm_eval.results import CountedAs, columns, reported

Ways = Mapping[str, CountedAs]
"""Benchmark -> how published rows count it."""


def ways_of(files: Iterable[str | Path], keys: Set[str]) -> dict[str, CountedAs]:
    """How these published files count benchmarks where that differs from the column headings.

    Only benchmarks that affect one of the columns `keys` are listed, by their own column or by a mean over them.
    """
    return {
        name: way
        for file in files
        for name, way in columns().counted_as(file).items()
        if not keys.isdisjoint(_touched(name))
    }


def _touched(benchmark: str) -> list[str]:
    return [benchmark, *columns().means_with(benchmark)]


def as_counted(row: Row, ways: Ways) -> Row:
    """The row with `counted` set in each cell that the ways affect: a benchmark's own cell and those of its means."""
    cells = dict(row.cells)
    for name, way in ways.items():
        for key in _touched(name):
            if key in cells:
                said = "; ".join(filter(None, (cells[key].counted, f"{title(name)} {way.variant}")))
                cells[key] = replace(cells[key], counted=said)
    return replace(row, cells=cells)


def _number(run: Scored, name: str, way: CountedAs) -> float | None:
    variant = load_benchmark(name).variant(VariantKey(way.variant))
    value = reported(run.summaries[name], variant.metric or "") if name in run.values else None
    return None if value is None else value * variant.scale


def reports(run: Scored, name: str, way: CountedAs) -> bool:
    """Whether the run's scores hold the number that the variant `way` counts."""
    return _number(run, name, way) is not None


def recounted(run: Scored, ways: Ways) -> Scored:
    """The run with the values of these benchmarks replaced by the variants' numbers, which its scores also hold.

    If the scores lack the number, the benchmark has no value, and neither have the means over it.
    """
    changed = {name: {**run.summaries[name], "value": _number(run, name, way)}
               for name, way in ways.items() if name in run.summaries}  # fmt: skip
    return replace(run, summaries={**run.summaries, **changed}, samples=run.samples or run)


def beside(run: Scored, row: Row, shown: Sequence[Column], intervals: bool, ways: Ways) -> list[Row]:
    """A run's row, followed by a second row that counts as the published rows do, with a footnote that says how.

    The second row is `aside`: it is never marked as best, nor counted as another run. If the run's scores lack the
    numbers, there is no second row, and a footnote of the first says so.
    """
    own = {name: way for name, way in ways.items() if reports(run, name, way)}
    if missing := lacking([run], ways):
        row = replace(row, notes=(*row.notes, *missing))
    if not own:
        return [row]
    again = measured_row(recounted(run, own), f"{row.label}: {names(own)}", shown, intervals)
    about = tuple(
        f"counted as the published rows are taken to be: {title(name)} by its variant {way.variant} "
        f"({load_benchmark(name).variant(VariantKey(way.variant)).about}), and the means with it"
        for name, way in own.items()
    )
    variants = "+".join(f"{name}.{way.variant}" for name, way in own.items())
    facts = {**again.facts, "variant": str(run.variant.named(variants))}
    return [row, as_counted(replace(again, group=row.group, aside=True, notes=about, facts=facts), own)]


def lacking(runs: Sequence[Scored], ways: Ways) -> list[str]:
    """Sentences that name the runs whose scores lack a number that the published rows count."""
    return [
        f"{names({name: way})} of {run.record.encoder} is not in its scores; `mllm-eval score` makes them again"
        for run in runs
        for name, way in ways.items()
        if name in run.values and not reports(run, name, way)
    ]


def counted_notes(ways: Ways, measured: bool) -> list[str]:
    """Notes on how the published rows count. With `measured`, they also say which measured row compares with them."""
    said = []
    for name, way in ways.items():
        where = f"{title(name)} of the published rows"
        said.append(f"{where}. Known: {way.known}. Inferred, and not said by the source: {way.inferred}.")
        if measured:
            means = columns().named()
            listed = " and ".join(means[key].title for key in columns().means_with(name))
            said.append(
                f"Measured rows have {title(name)}, {listed} as the headings say. Below each, "
                f"'{names({name: way})}' counts as the published rows are taken to do: that row compares with them, "
                "and no difference is taken between the two ways."
            )
    return said


def names(ways: Ways) -> str:
    """Benchmarks with their variants as text, such as `MME total`."""
    return ", ".join(f"{title(name)} {way.variant}" for name, way in ways.items())

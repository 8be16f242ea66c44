"""The columns of the tables (configs/reference/columns.yaml), and the means for categories and AVG."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from mllm_eval.config import Strict, load
from mllm_eval.storage import SHIPPED

AVERAGE = "avg"


class Named(Strict):
    """A column of the tables.

    title: its heading. csv: its names in published csv files. better: whether high or low values are better.
    decimals: printed digits after the point, if not the table's default.
    """

    title: str
    csv: list[str]
    better: Literal["high", "low"] = "high"
    decimals: int | None = None


class Stratum(Strict):
    """How to get the stratum of a score line that names none: the first group of `pattern` in `field`."""

    field: Literal["group", "id", "cluster"]
    pattern: str


class CountedAs(Strict):
    """Published tables that appear to use another metric than their heading says.

    variant: the benchmark's variant with the same questions whose metric matches their numbers.
    files: names or patterns of tables in configs/reference.
    known, inferred: text of the footnote: known facts about the numbers, and the conclusion from them.
    """

    variant: str
    files: list[str]
    known: str
    inferred: str


class BenchmarkColumn(Named):
    """A benchmark's column.

    percent: factor that scales its value to 0 to 100. published: tables with another metric under its heading.
    """

    category: str
    percent: float = 1.0
    estimator: dict[str, Any] | None = None
    stratum: Stratum | None = None
    strata: list[str] | None = None
    published: list[CountedAs] = Field(default_factory=list)


class TableColumns(Strict):
    """All columns of the tables, in the paper's order."""

    categories: dict[str, Named]
    average: Named
    benchmarks: dict[str, BenchmarkColumn]
    classic: dict[str, Named]
    facts: dict[str, Named]

    def named(self) -> dict[str, Named]:
        """Return key -> column: AVG, then categories, benchmarks, classic vision tasks and facts of the encoder."""
        return {
            AVERAGE: self.average,
            **self.categories,
            **self.benchmarks,
            **self.classic,
            **self.facts,
        }

    def members(self, category: str) -> list[str]:
        """Return the benchmarks of a category; all for AVG."""
        return [k for k, b in self.benchmarks.items() if category in (AVERAGE, b.category)]

    def means_with(self, benchmark: str) -> list[str]:
        """Return the means that a benchmark is part of: AVG and its category."""
        return [AVERAGE, self.benchmarks[benchmark].category]

    def counted_as(self, file: str | Path) -> dict[str, CountedAs]:
        """Return benchmark -> the metric of a published table, where it is not the one that its heading says."""
        name = Path(file).name
        return {
            key: one
            for key, column in self.benchmarks.items()
            for one in column.published
            if any(fnmatch(name, pattern) for pattern in one.files)
        }

    def percent(self, benchmark: str) -> float:
        """Return the factor that scales a benchmark's value to 0 to 100; 1 for an unknown benchmark."""
        return self.benchmarks[benchmark].percent if benchmark in self.benchmarks else 1.0

    def means(self, values: Mapping[str, float]) -> dict[str, float]:
        """Return AVG and category means of benchmark values as the paper computes them, on the scale of 0 to 100.

        A category is the mean of its four benchmarks, AVG the mean of all sixteen, with MME perception divided by 20
        (Cambrian-1, arXiv 2406.16860). A mean with a missing or NaN member is left out, as it would be another
        quantity under the same name.
        """
        means: dict[str, float] = {}
        for mean in (AVERAGE, *self.categories):
            parts = [values.get(name, math.nan) * self.percent(name) for name in self.members(mean)]
            if not any(math.isnan(part) for part in parts):
                means[mean] = sum(parts) / len(parts)
        return means


def strata(
    benchmark: str, named: Sequence[str | None], fields: Mapping[str, Sequence[str]], every: bool = False
) -> list[str | None]:
    """Return the stratum of each sample of a benchmark [N].

    Args:
        named: the samples' strata as recorded with their scores. If all are None, strata are read from `fields`, as
            the benchmark's column in columns.yaml states.
        fields: id, group and cluster of the samples.
        every: keep all strata; by default, strata that the benchmark's value does not count become None.
    """
    column = columns().benchmarks.get(benchmark)
    of_samples = list(named)
    if column and column.stratum and all(name is None for name in of_samples):
        pattern = re.compile(column.stratum.pattern)
        places = [pattern.search(text) for text in fields[column.stratum.field]]
        of_samples = [place[1] if place else None for place in places]
    if column and column.strata and not every:
        of_samples = [name if name in column.strata else None for name in of_samples]
    return of_samples


@cache
def columns() -> TableColumns:
    """Return the columns of the installed columns.yaml, cached."""
    return load(SHIPPED / "configs" / "reference" / "columns.yaml", TableColumns)

"""The columns of the tables (configs/reference/columns.yaml) and the arithmetic of categories and AVG."""

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
    """A column's heading, its names in the published csv files, which end is better, and its digits where they are
    not the table's."""

    title: str
    csv: list[str]
    better: Literal["high", "low"] = "high"
    decimals: int | None = None


class Stratum(Strict):
    """Where a stratum is read from in a score line that names none: a field, by a pattern's first group."""

    field: Literal["group", "id", "cluster"]
    pattern: str


class CountedAs(Strict):
    """Published tables whose numbers are counted otherwise than their heading says, as far as one can tell.

    variant: of the benchmark, which asks the same and reports the number that they fit. files: names or patterns of
    tables of configs/reference. known, inferred: the footnote: what is known of them, and what is concluded from it.
    """

    variant: str
    files: list[str]
    known: str
    inferred: str


class BenchmarkColumn(Named):
    """A benchmark's column: `percent` takes its value to the scale of 0 to 100; `published` are tables that hold
    another number under its heading."""

    category: str
    percent: float = 1.0
    estimator: dict[str, Any] | None = None
    stratum: Stratum | None = None
    strata: list[str] | None = None
    published: list[CountedAs] = Field(default_factory=list)


class Columns(Strict):
    """All columns, in the paper's order."""

    categories: dict[str, Named]
    average: Named
    benchmarks: dict[str, BenchmarkColumn]
    classic: dict[str, Named]
    facts: dict[str, Named]

    def named(self) -> dict[str, Named]:
        """Key -> column, AVG first, then categories, benchmarks, classic vision, facts of the encoder."""
        return {
            AVERAGE: self.average,
            **self.categories,
            **self.benchmarks,
            **self.classic,
            **self.facts,
        }

    def members(self, category: str) -> list[str]:
        """The benchmarks of a category; all for AVG."""
        return [k for k, b in self.benchmarks.items() if category in (AVERAGE, b.category)]

    def means_with(self, benchmark: str) -> list[str]:
        """AVG and the category that a benchmark is part of."""
        return [AVERAGE, self.benchmarks[benchmark].category]

    def counted_as(self, file: str | Path) -> dict[str, CountedAs]:
        """Benchmark -> how the rows of a published table count it, where that is not what its heading says."""
        name = Path(file).name
        return {
            key: one
            for key, column in self.benchmarks.items()
            for one in column.published
            if any(fnmatch(name, pattern) for pattern in one.files)
        }

    def percent(self, benchmark: str) -> float:
        """What a value of the benchmark is multiplied by to lie between 0 and 100; 1 for one unknown here."""
        return self.benchmarks[benchmark].percent if benchmark in self.benchmarks else 1.0

    def means(self, values: Mapping[str, float]) -> dict[str, float]:
        """AVG and the categories of benchmark values as the paper counts them.

        A category is the mean of its four benchmarks, AVG that of all sixteen, with MME perception divided
        by 20 (Cambrian-1, arXiv 2406.16860). A mean with a missing or nan member is left out: it would be
        another quantity under the same name.
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
    """[N] the stratum of each sample of a benchmark: as `named`, or else where its column's yaml reads it from.

    `fields`: id, group and cluster of the samples. A stratum that the value does not count is None, unless `every`
    one is wanted, as by a variant that counts more of them.
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
def columns() -> Columns:
    """The columns that this installation knows."""
    return load(SHIPPED / "configs" / "reference" / "columns.yaml", Columns)

"""The options of a table of runs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TableOptions:
    """The options of a table of runs.

    rules          the rule set whose values are shown
    baseline       the row (label, encoder or hash) that all others are compared with; None compares every pair
    intervals      whether to show 95 % intervals
    mixed_recipes  whether to allow runs of different recipes in one table
    subset         show the rows of this subset of the questions; None shows those of all questions
    """

    rules: str = "cambrian"
    baseline: str | None = None
    intervals: bool = False
    mixed_recipes: bool = False
    subset: int | None = None


AS_PRINTED = TableOptions()
"""The default options."""

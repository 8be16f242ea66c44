"""What can be asked of a table of runs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TableOptions:
    """rules          the rule set whose values are shown
    baseline       the row (label, encoder or hash) that all others are compared with; None compares every pair
    intervals      whether each value has its 95 % interval
    mixed_recipes  whether runs of unequal recipes may stand side by side
    subset         the rows of this subset, not those of all questions
    """

    rules: str = "cambrian"
    baseline: str | None = None
    intervals: bool = False
    mixed_recipes: bool = False
    subset: int | None = None


AS_PRINTED = TableOptions()
"""What a table shows where nothing else is asked."""

"""How a variant is named that asks a part of the questions: `default@1000`, `blind@1000`."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mllm_eval.errors import UserError

SMALLEST = 16
"""Benchmarks of the table, each of which gives as many questions."""


def size_of_table(size: int | None, benchmarks: Sequence[str] | None) -> int | None:
    """The size of the table's subset in which the chosen benchmarks give `size` questions together.

    It is `size` itself where none were chosen. So a benchmark's part of one size is the same whatever else is asked,
    and is part of any larger one. Raises UserError for a size that leaves a chosen benchmark without questions.
    """
    if size is None or not benchmarks:
        return size
    chosen = len(set(benchmarks))
    if size < chosen:
        raise UserError(f"a subset of {size} leaves some of {chosen} benchmarks without questions; ask for more")
    return SMALLEST * size // chosen


def sized(variant: str, size: int | None) -> str:
    """The variant's name for a subset of `size` questions; its own for None.

    Raises UserError for a size that leaves benchmarks of the table without questions.
    """
    if size is None:
        return variant
    if size < SMALLEST:
        raise UserError(f"a subset of {size} leaves benchmarks without questions; ask for {SMALLEST} or more")
    return f"{variant}@{size}"


def parted(variant: str) -> tuple[str, int | None]:
    """The plain variant, and the size of the subset that it asks; None where it asks all."""
    found = re.fullmatch(r"(.+)@(\d+)", variant)
    return (found[1], int(found[2])) if found else (variant, None)

"""How a variant is named that asks a part of the questions: `default@1000`, `blind@1000`."""

from __future__ import annotations

import re

from mllm_eval.errors import UserError

SMALLEST = 16


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

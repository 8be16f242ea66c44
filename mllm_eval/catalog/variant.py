"""The key of answers and scores: a variant of a benchmark, and how many of its questions are asked."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from mllm_eval.errors import UserError, is_whole

SMALLEST = 16
"""Smallest subset of the table: one question for each of its 16 benchmarks."""


@dataclass(frozen=True, slots=True)
class VariantKey:
    """A variant of a benchmark, with all its questions or with its part of a subset of the table.

    Files and options write it as text: `blind`, or `blind@1000` for a subset of 1,000 questions.
    """

    name: str = "default"
    subset: int | None = None

    @classmethod
    def parse(cls, text: str) -> VariantKey:
        """Parse the text form of a key."""
        part = re.fullmatch(r"(.+)@(\d+)", text)
        return cls(part[1], int(part[2])) if part else cls(text)

    @classmethod
    def of(cls, name: str, subset: int | None) -> VariantKey:
        """The key of a requested subset; None means all questions.

        Raises UserError for a size that is no whole number, or leaves benchmarks of the table without questions.
        """
        if subset is None:
            return cls(name)
        if not is_whole(subset):
            raise UserError(f"a subset of {subset!r}: give a whole number of questions")
        if subset < SMALLEST:
            raise UserError(f"a subset of {subset} leaves benchmarks without questions; ask for {SMALLEST} or more")
        return cls(name, int(subset))

    def named(self, name: str) -> VariantKey:
        """Another variant with the same questions."""
        return replace(self, name=name)

    def __str__(self) -> str:
        return self.name if self.subset is None else f"{self.name}@{self.subset}"


DEFAULT = VariantKey()
"""Prompts as in the paper's code, all questions."""
BLIND = VariantKey("blind")
"""No images, all questions."""


def stem(benchmark: str, variant: VariantKey) -> str:
    """Stem of the file names of a benchmark's answers and scores: `mme`, `mme.blind`, `mme.blind@1000`."""
    return benchmark if variant == DEFAULT else f"{benchmark}.{variant}"


def parse_stem(text: str) -> tuple[str, VariantKey]:
    """The benchmark and the variant of a `stem`."""
    benchmark, _, variant = text.partition(".")
    return benchmark, VariantKey.parse(variant) if variant else DEFAULT


def size_of_table(size: int | None, benchmarks: Sequence[str] | None) -> int | None:
    """Size of the table's subset in which the chosen benchmarks have `size` questions together.

    Without chosen benchmarks it is `size`. A benchmark's part of a subset thus depends only on the subset's size, and
    is contained in larger ones. Raises UserError for a size that is no whole number, or leaves a chosen benchmark
    without questions.
    """
    if size is None or not benchmarks:
        return size
    if not is_whole(size):
        raise UserError(f"a subset of {size!r}: give a whole number of questions")
    chosen = len(set(benchmarks))
    if size < chosen:
        raise UserError(f"a subset of {size} leaves some of {chosen} benchmarks without questions; ask for more")
    return SMALLEST * size // chosen

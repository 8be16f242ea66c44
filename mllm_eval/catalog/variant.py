"""Which variant of a benchmark, and of how many questions: the key of answers and scores, and how it is written."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from mllm_eval.errors import UserError

SMALLEST = 16
"""Benchmarks of the table, each of which gives as many questions."""


@dataclass(frozen=True, slots=True)
class VariantKey:
    """A variant of a benchmark, of all its questions or of its part of a subset of the table.

    As text, which is what files and options hold, it is `blind`, or `blind@1000` for a subset of 1,000 questions.
    """

    name: str = "default"
    subset: int | None = None

    @classmethod
    def parse(cls, text: str) -> VariantKey:
        """The key that a text is."""
        part = re.fullmatch(r"(.+)@(\d+)", text)
        return cls(part[1], int(part[2])) if part else cls(text)

    @classmethod
    def of(cls, name: str, subset: int | None) -> VariantKey:
        """The key of a subset that is asked for; of None all questions.

        Raises UserError for a size that leaves benchmarks of the table without questions.
        """
        if subset is not None and subset < SMALLEST:
            raise UserError(f"a subset of {subset} leaves benchmarks without questions; ask for {SMALLEST} or more")
        return cls(name, subset)

    def named(self, name: str) -> VariantKey:
        """Another variant of the same questions."""
        return replace(self, name=name)

    def __str__(self) -> str:
        return self.name if self.subset is None else f"{self.name}@{self.subset}"


DEFAULT = VariantKey()
"""As the paper's code asks, all questions."""
BLIND = VariantKey("blind")
"""Without images, all questions."""


def stem(benchmark: str, variant: VariantKey) -> str:
    """What the files of a benchmark's answers and scores are named by: `mme`, `mme.blind`, `mme.blind@1000`."""
    return benchmark if variant == DEFAULT else f"{benchmark}.{variant}"


def parse_stem(text: str) -> tuple[str, VariantKey]:
    """The benchmark and the variant of a `stem`."""
    benchmark, _, variant = text.partition(".")
    return benchmark, VariantKey.parse(variant) if variant else DEFAULT


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

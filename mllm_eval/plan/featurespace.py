"""Estimates which features fit on the disk, and which images every run must encode again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Keeping:
    """The features of a stage or of the evaluation.

    size: bytes of all features. kept: images whose features stay on the disk. again: encodings that every run repeats,
    because their features are not kept; the first run also encodes the kept ones. live: the recipe stores none.
    """

    images: int
    size: int
    kept: int
    again: int
    live: bool = False

    @property
    def first(self) -> int:
        """Encodings in the first run."""
        return self.kept + self.again


def keeping(
    row: int, images: Mapping[str, int], shown: Mapping[str, int], live: Mapping[str, bool], bound: int
) -> dict[str, Keeping]:
    """Decide which features of each step are kept, in order, if all together may take `bound` bytes.

    row: bytes per image. shown: how often a step shows an image. live: whether each stage encodes in every step.
    A stage is kept completely or not at all, as in training. Of the evaluation's images, as many are kept as fit.
    """
    by_step = {}
    for name, count in images.items():
        room = bound // row
        if live.get(name, False):
            by_step[name] = Keeping(count, count * row, 0, shown[name], live=True)
            continue
        kept = count if count <= room else 0 if name in live else room
        by_step[name] = Keeping(count, count * row, kept, 0 if kept == count else max(shown[name] - kept, 0))
        bound -= kept * row
    return by_step

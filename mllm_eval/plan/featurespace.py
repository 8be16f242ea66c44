"""Which features have room on the disk, and what is encoded again in every run because they have not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Keeping:
    """The features of a stage or of the evaluation.

    size: bytes of all of them. kept: images whose features stay on the disk. again: encodings that every run does
    anew, for the images that are not kept; the first run encodes the kept ones, too. live: the recipe keeps none.
    """

    images: int
    size: int
    kept: int
    again: int
    live: bool = False

    @property
    def first(self) -> int:
        """Encodings of the first run."""
        return self.kept + self.again


def keeping(
    row: int, images: Mapping[str, int], shown: Mapping[str, int], live: Mapping[str, bool], bound: int
) -> dict[str, Keeping]:
    """What is kept of each step's features, in order, where all together may take `bound` bytes.

    `row`: bytes of an image. `shown`: how often a step shows an image. A stage is kept whole or not at all, as
    training does it; of the evaluation's images as many are kept as there is room for.
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

"""Look up which row of which shard holds an image, by bisection, with 88 bytes of memory per image."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

PlaceArrays = tuple[NDArray[np.bytes_], NDArray[np.int64], NDArray[np.bytes_]]
"""Sorted arrays [n]: the image's SHA-256 in hex; shard << 32 | row; the row's checksum, empty once verified."""


class RowPlaces:
    """Places of images in a few sorted parts, each at least twice as large as the next, which keeps adding cheap."""

    def __init__(self) -> None:
        self._parts: list[PlaceArrays] = []

    def __len__(self) -> int:
        """Return the number of images that have a place."""
        return len(np.unique(np.concatenate([part[0] for part in self._parts]))) if self._parts else 0

    def add(self, parts: Sequence[PlaceArrays]) -> None:
        """Add places in any order."""
        parts = [part for part in parts if len(part[0])]
        while parts:
            images, where, checksums = (np.concatenate(columns) for columns in zip(*parts, strict=True))
            order = np.argsort(images, kind="stable")
            new = images[order], where[order], checksums[order]
            if not self._parts or len(self._parts[-1][0]) >= 2 * len(order):
                self._parts.append(new)
                return
            parts = [self._parts.pop(), new]

    def find(self, images: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.bytes_]]:
        """Return the places [n] of images (SHA-256 in hex), -1 where there is none, and their rows' checksums [n]."""
        places, checksums = np.full(len(images), -1), np.zeros(len(images), "S16")
        for (_, where, sums), at, there in self._look(images):
            there &= places < 0
            places[there], checksums[there] = where[at[there]], sums[at[there]]
        return places, checksums

    def compared(self, images: Sequence[str], places: NDArray[np.int64]) -> None:
        """Record that the rows of these images at these places were compared with their checksums."""
        for (_, where, sums), at, there in self._look(images):
            sums[at[there & (where[at] == places)]] = b""

    def _look(self, images: Sequence[str]) -> Iterator[tuple[PlaceArrays, NDArray[np.int64], NDArray[np.bool_]]]:
        asked = np.array(images, "S64")
        for part in self._parts:
            at = np.minimum(np.searchsorted(part[0], asked), len(part[0]) - 1)
            yield part, at, part[0][at] == asked

    def drop(self, places: Collection[int] = (), shards: Collection[int] = ()) -> None:
        """Remove these places, and all places in these shards. Other places of the same images remain."""
        for number, part in enumerate(self._parts):
            kept = ~(np.isin(part[1], [*places]) | np.isin(part[1] >> 32, [*shards]))
            self._parts[number] = part[0][kept], part[1][kept], part[2][kept]
        self._parts = [part for part in self._parts if len(part[0])]

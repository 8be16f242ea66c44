"""Which examples a step sees: one random order after the other, without end, the same whatever computes it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


class Order:
    """Places from 0 to `count` in steps of `batch`; every place comes once before any comes twice."""

    def __init__(self, count: int, batch: int, seed: int) -> None:
        self.count, self.batch, self.seed = count, batch, seed
        self._round = lru_cache(2)(self._shuffled)

    def _shuffled(self, number: int) -> NDArray[np.int32]:
        return np.random.default_rng([self.seed, 2, number]).permutation(self.count).astype(np.int32)

    def places(self, step: int) -> list[int]:
        """The places of a step [batch]."""
        numbers = np.arange(step * self.batch, (step + 1) * self.batch)
        return [int(self._round(int(at // self.count))[at % self.count]) for at in numbers]

    def steps(self, start: int, stop: int) -> Iterator[list[int]]:
        """The places of these steps, one after the other."""
        return (self.places(step) for step in range(start, stop))

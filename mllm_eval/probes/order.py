"""The order of training examples: one random permutation after another, which depends on the seed alone."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


class Order:
    """The indices from 0 to `count` - 1 in batches of `batch`; a permutation is used up before the next one begins."""

    def __init__(self, count: int, batch: int, seed: int) -> None:
        self.count, self.batch, self.seed = count, batch, seed
        self._round = lru_cache(2)(self._shuffled)

    def _shuffled(self, number: int) -> NDArray[np.int32]:
        return np.random.default_rng([self.seed, 2, number]).permutation(self.count).astype(np.int32)

    def places(self, step: int) -> list[int]:
        """The indices of a step, a list of `batch`."""
        numbers = np.arange(step * self.batch, (step + 1) * self.batch)
        return [int(self._round(int(at // self.count))[at % self.count]) for at in numbers]

    def steps(self, start: int, stop: int) -> Iterator[list[int]]:
        """The indices of the steps from `start` to `stop` - 1."""
        return (self.places(step) for step in range(start, stop))

"""Memory of batches that nobody has any more, taken over by the next."""

from __future__ import annotations

import weakref

import numpy as np
from numpy.typing import NDArray

# Batches whose memory is kept for the next.
SPARE = 2


class ReusedMemory:
    """Lends memory that comes back by itself when nothing refers to it any more: new pages cost more than a copy."""

    def __init__(self) -> None:
        self._spare: list[NDArray[np.uint8]] = []

    def lend(self, size: int) -> NDArray[np.uint8]:
        """[size] bytes, whatever they hold."""
        at = next((at for at, one in enumerate(self._spare) if one.nbytes >= size), None)
        memory = np.empty(size, np.uint8) if at is None else self._spare.pop(at)
        lent = memory[:size]
        weakref.finalize(lent, _keep, self._spare, memory).atexit = False
        return lent


def _keep(spare: list[NDArray[np.uint8]], memory: NDArray[np.uint8]) -> None:
    if len(spare) < SPARE:
        spare.append(memory)

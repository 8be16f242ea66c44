"""Reuse the memory of batches that are no longer referenced."""

from __future__ import annotations

import weakref

import numpy as np
from numpy.typing import NDArray

# Number of free buffers that are kept.
SPARE = 2


class ReusedMemory:
    """Lends buffers, and takes each back when nothing refers to it any more.

    Touching newly allocated pages would take longer than copying the data.
    """

    def __init__(self) -> None:
        self._spare: list[NDArray[np.uint8]] = []

    def lend(self, size: int) -> NDArray[np.uint8]:
        """Return an uninitialised uint8 buffer [size]."""
        at = next((at for at, one in enumerate(self._spare) if one.nbytes >= size), None)
        memory = np.empty(size, np.uint8) if at is None else self._spare.pop(at)
        lent = memory[:size]
        weakref.finalize(lent, _keep, self._spare, memory).atexit = False
        return lent


def _keep(spare: list[NDArray[np.uint8]], memory: NDArray[np.uint8]) -> None:
    if len(spare) < SPARE:
        spare.append(memory)

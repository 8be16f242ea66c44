"""Memory that Python and numpy take, as tracemalloc counts it.

Whatever else happens in the process meanwhile, a thread of another test or a table that all share and that grows, only
adds to it. So everything is measured three times, after once for what is imported and cached, and the least is taken.
"""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from typing import TypeVar

TIMES = 3
T = TypeVar("T")


def held(work: Callable[[], T]) -> tuple[T, int]:
    """What a piece of work gives, and the bytes that are held for it afterwards."""
    made = work()
    return made, min(_traced(work)[0] for _ in range(TIMES))


def peak(work: Callable[[], object]) -> int:
    """The most bytes that a piece of work holds at a time."""
    work()
    return min(_traced(work)[1] for _ in range(TIMES))


def _traced(work: Callable[[], object]) -> tuple[int, int]:
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        made = work()
        most = tracemalloc.get_traced_memory()[1] - before
        gc.collect()
        kept = tracemalloc.get_traced_memory()[0] - before
        del made
        return kept, most
    finally:
        tracemalloc.stop()

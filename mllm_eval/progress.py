"""How whatever takes a while tells how far it is."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Called with the units done and the units in all."""


def unheard(done: int, total: int) -> None:
    """The progress that nobody listens to."""

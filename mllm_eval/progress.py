"""The callback by which long operations report their progress."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Called with the number of units done and their total."""


def unheard(done: int, total: int) -> None:
    """Ignore the progress."""

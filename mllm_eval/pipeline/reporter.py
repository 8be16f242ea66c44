"""How the pipeline tells what it does, without knowing who listens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from mllm_eval.progress import Progress, unheard


class Reporter(Protocol):
    """Who listens: the command line's display, or nobody."""

    def say(self, text: str) -> None:
        """One line."""
        ...

    def step(self, title: str) -> AbstractContextManager[Progress]:
        """A step that takes a while; its progress is told to what the context gives."""
        ...


class Silent:
    """Nobody listens."""

    def say(self, text: str) -> None:
        """Nothing."""

    @contextmanager
    def step(self, title: str) -> Iterator[Progress]:
        """Nothing."""
        yield unheard

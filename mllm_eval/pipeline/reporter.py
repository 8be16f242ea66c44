"""The interface by which the pipeline reports its progress."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from mllm_eval.progress import Progress, unheard


class Reporter(Protocol):
    """Receives the pipeline's messages, e.g. the command line's display."""

    def say(self, text: str) -> None:
        """Report one line of text."""
        ...

    def step(self, title: str) -> AbstractContextManager[Progress]:
        """Return a context for a long step; it yields the function to call with the step's progress."""
        ...


class Silent:
    """A reporter that discards everything."""

    def say(self, text: str) -> None:
        """Discard the line."""

    @contextmanager
    def step(self, title: str) -> Iterator[Progress]:
        """Discard the step's progress."""
        yield unheard

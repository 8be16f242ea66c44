"""A reporter that keeps what it is told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mllm_eval.progress import Progress, unheard


class Heard:
    """Keeps what is said and the titles of steps, in their order."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    @contextmanager
    def step(self, title: str) -> Iterator[Progress]:
        self.said.append(title)
        yield unheard

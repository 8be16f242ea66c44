"""Which files a piece of code opens: for tests that hold it to reading each once."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

_watching: list[Counter[str]] = []


def _note(event: str, arguments: tuple[object, ...]) -> None:
    # `open` of the standard library; a file that is written through a descriptor has no name here.
    if event == "open" and _watching and isinstance(arguments[0], str):
        for opened in _watching:
            opened[arguments[0]] += 1


sys.addaudithook(_note)


@contextmanager
def opened() -> Iterator[Counter[str]]:
    """Path -> how often it was opened while the context lasts."""
    counts = Counter[str]()
    _watching.append(counts)
    try:
        yield counts
    finally:
        _watching.remove(counts)


def configs(counts: Counter[str]) -> dict[str, int]:
    """Of these the yaml files."""
    return {path: count for path, count in counts.items() if path.endswith(".yaml")}


def summaries(counts: Counter[str]) -> dict[str, int]:
    """Of these the summaries of scores."""
    return {path: count for path, count in counts.items() if "/scores/" in path and path.endswith(".json")}


def score_lines(counts: Counter[str]) -> dict[str, int]:
    """Of these the scores of samples."""
    return {path: count for path, count in counts.items() if "/scores/" in path and path.endswith(".jsonl")}

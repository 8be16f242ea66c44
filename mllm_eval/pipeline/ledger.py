"""What a run has cost: a line for each step that was done, in the run's ledger.jsonl."""

from __future__ import annotations

import json
import os
import resource
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mllm_eval.pipeline.reporter import Progress, Reporter


class Ledger:
    """Steps of a run with their cost, appended as they end; a step that is skipped or dies leaves no line.

    `begin` is called before the first step: a command that computes nothing leaves no trace. Of several processes
    one keeps the book; `kept` is False for the others.
    """

    def __init__(
        self, folder: Path, reporter: Reporter, begin: Callable[[], None] | None = None, kept: bool = True
    ) -> None:
        self.kept = kept
        self.path = folder / "ledger.jsonl"
        self.reporter = reporter
        self.begin = begin
        self.steps = 0
        """Steps done by this process."""

    @contextmanager
    def step(
        self, title: str, shown: str | None = None, parts: Mapping[str, int] | None = None, **about: Any
    ) -> Iterator[Progress]:
        """Time a step: wall and processor seconds of this process and its children, and its memory peak.

        `shown` stands for the title while it lasts. What several `parts` (title -> samples) did together is a line
        each, the time split by their samples.
        """
        if self.begin:
            self.begin()
            self.begin = None
        wall, spent = time.monotonic(), _spent()
        with self.reporter.step(shown or title) as progress:
            yield progress
        wall, spent = time.monotonic() - wall, _spent() - spent
        for name, samples in (parts or {title: 1}).items():
            share = samples / (sum(parts.values()) or 1) if parts else 1.0
            line = {
                "step": name,
                **about,
                **({"samples": samples} if parts else {}),
                **({"together": list(parts)} if parts and len(parts) > 1 else {}),
                "seconds": round(wall * share, 2),
                "cpu_seconds": round(spent * share, 2),
                "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
                "ended": datetime.now(UTC).isoformat(timespec="seconds"),
            }
            if self.kept:
                self._append(line)
        self.steps += 1

    def _append(self, line: dict[str, Any]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a+b") as file:
            # A line cut off by a crash gets its end here, so that it can't swallow this one.
            if file.tell() and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n":
                file.write(b"\n")
            file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")

    def lines(self) -> list[dict[str, Any]]:
        """The steps so far; a line that a crash cut off is left out."""
        if not self.path.is_file():
            return []
        found = []
        for text in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                found.append(json.loads(text))
            except json.JSONDecodeError:
                continue
        return found


def _spent() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system

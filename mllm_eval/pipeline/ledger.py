"""Time the steps of a run and append each to the run's timings when it ends."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from mllm_eval.catalog.variant import VariantKey
from mllm_eval.pipeline.reporter import Reporter
from mllm_eval.progress import Progress
from mllm_eval.results.timings import Kind, append_timing


class AskedVariant(NamedTuple):
    """A variant of a benchmark."""

    benchmark: str
    variant: VariantKey


@dataclass(frozen=True)
class VariantPart:
    """One variant's share of a step that several variants take part in.

    amount: how many of the step's items (samples or images) belong to this variant.
    """

    title: str
    benchmark: str
    variant: VariantKey
    amount: int


class Ledger:
    """Records each step of a run with its cost when it ends; a skipped or interrupted step leaves no line.

    `begin` is called before the first step, so that a command that computes nothing leaves no trace. `kept` is False
    on all ranks but one: only that rank writes the lines.
    """

    def __init__(
        self, folder: Path, reporter: Reporter, begin: Callable[[], None] | None = None, kept: bool = True
    ) -> None:
        self.kept = kept
        self.folder = folder
        self.reporter = reporter
        self.begin = begin
        self.steps = 0
        """Steps done by this process."""

    @contextmanager
    def step(
        self,
        title: str,
        kind: Kind = "other",
        shown: str | None = None,
        parts: Sequence[VariantPart] = (),
        counted: str = "samples",
        of: AskedVariant | None = None,
        **about: Any,
    ) -> Iterator[Progress]:
        """Time a step: wall-clock and CPU seconds of this process and its children, and peak resident memory in MiB.

        Args:
            shown: title for the display while the step runs.
            parts: variants that take part. Each gets a line of its own, with its share of the time by `amount`.
            counted: what the amounts of `parts` count; the name of their field in the line.
            of: the variant that a step belongs to, if it is a single one.
            about: further fields of the line.
        """
        if self.begin:
            self.begin()
            self.begin = None
        wall, spent = time.monotonic(), _spent()
        with self.reporter.step(shown or title) as progress:
            yield progress
        wall, spent = time.monotonic() - wall, _spent() - spent
        whole = sum(part.amount for part in parts) or 1
        for one in parts or (None,):
            share = one.amount / whole if one else 1.0
            own: dict[str, Any] = {"benchmark": of.benchmark, "variant": str(of.variant)} if of else {}
            if one:
                own = {"benchmark": one.benchmark, "variant": str(one.variant), counted: one.amount}
            line = {
                "step": one.title if one else title,
                "kind": kind,
                **about,
                **own,
                **({"together": [part.title for part in parts]} if len(parts) > 1 else {}),
                "seconds": round(wall * share, 2),
                "cpu_seconds": round(spent * share, 2),
                "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
                "ended": datetime.now(UTC).isoformat(timespec="seconds"),
            }
            if self.kept:
                append_timing(self.folder, line)
        self.steps += 1


def _spent() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system

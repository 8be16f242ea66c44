"""Write and read ledger.jsonl, which has a line with the duration of each step of a run."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mllm_eval import disk
from mllm_eval.catalog.variant import VariantKey
from mllm_eval.disk import saving
from mllm_eval.storage import parse_json

Kind = Literal["training", "load", "server", "features", "answers", "scores", "other"]
"""The kind of a step. Readers of timings must rely on it, not on a step's title."""
FILE = "ledger.jsonl"


@dataclass(frozen=True, slots=True)
class Timing:
    """A finished step. `title` is for display.

    kind                  empty in lines of versions that did not record it
    benchmark, variant    what the step worked on; empty and None if it was not a single benchmark
    seconds, cpu_seconds  wall-clock and CPU seconds, child processes included
    peak_mib              peak resident memory of the process until the end of the step, in MiB
    amounts               (what was counted, number), e.g. of `samples` or `images`
    """

    title: str
    kind: Kind | Literal[""]
    seconds: float
    benchmark: str = ""
    variant: VariantKey | None = None
    cpu_seconds: float = 0.0
    peak_mib: float = 0.0
    amounts: tuple[tuple[str, int], ...] = ()


def append_timing(folder: Path, line: dict[str, Any]) -> None:
    """Append a step to a run's ledger: `step` (its title), `kind`, `seconds`, and further fields of `Timing`.

    Raises NotWritten where the system can't write.
    """
    path = folder / FILE
    with saving(path):
        folder.mkdir(parents=True, exist_ok=True)
        with open(path, "a+b", buffering=0) as file:
            # A line that a crash cut off is ended first, so that it does not absorb this one.
            cut = file.tell() and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n"
            disk.write(file.fileno(), b"\n" * bool(cut) + json.dumps(line, ensure_ascii=False).encode() + b"\n")


def read_timings(folder: Path) -> list[Timing]:
    """Return the steps of a run in the order in which they ended; lines that a crash cut off are skipped."""
    path, timings = folder / FILE, []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []:
        try:
            line = parse_json(text, fields_once=False)
        except ValueError:
            continue
        if isinstance(line, dict) and "step" in line and isinstance(line.get("seconds"), int | float):
            timings.append(_timing(line))
    return timings


def _timing(line: dict[str, Any]) -> Timing:
    variant = str(line.get("variant", ""))
    return Timing(
        title=str(line["step"]),
        kind=line.get("kind", ""),
        seconds=float(line["seconds"]),
        benchmark=str(line.get("benchmark", "")),
        variant=VariantKey.parse(variant) if variant else None,
        cpu_seconds=float(line.get("cpu_seconds", 0)),
        peak_mib=float(line.get("peak_mib", 0)),
        amounts=tuple((key, line[key]) for key in ("samples", "images") if isinstance(line.get(key), int)),
    )

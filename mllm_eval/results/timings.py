"""How long each step of a run took: the lines of its ledger.jsonl, written and read here and nowhere else."""

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
"""What a step was; who reads timings goes by this, never by a step's title."""
FILE = "ledger.jsonl"


@dataclass(frozen=True, slots=True)
class Timing:
    """A step that was done. `title` is for people to read.

    kind                  empty in what versions wrote that did not say it
    benchmark, variant    whose answers, scores or features; empty and None where the step was not one benchmark's
    seconds, cpu_seconds  wall and processor seconds, its children's included
    peak_mib              the most memory that the process had held when the step ended
    amounts               what was counted, such as `samples` or `images` -> how many
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
    """Add a step to a run's ledger: `step` (its title), `kind`, `seconds` and what `Timing` has beside them."""
    path = folder / FILE
    with saving(path):
        folder.mkdir(parents=True, exist_ok=True)
        with open(path, "a+b", buffering=0) as file:
            # A line cut off by a crash gets its end here, so that it can't swallow this one.
            cut = file.tell() and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n"
            disk.write(file.fileno(), b"\n" * bool(cut) + json.dumps(line, ensure_ascii=False).encode() + b"\n")


def read_timings(folder: Path) -> list[Timing]:
    """The steps of a run in the order in which they ended; a line that a crash cut off is left out."""
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

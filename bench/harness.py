"""What the timings share: medians of wall and CPU seconds, one file and one table a timing.

CPU seconds tell more than wall seconds where other programs share the machine.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mllm_eval.environment import describe
from mllm_eval.storage import results_home, write_json


def timed(work: Callable[[], Any], rounds: int = 1) -> dict[str, float]:
    """Medians over the rounds of {wall_seconds, cpu_seconds} of this process, all its threads together."""
    taken = []
    for _ in range(rounds):
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        taken.append((time.perf_counter() - wall, time.process_time() - cpu))
    return {
        name: statistics.median(one[at] for one in taken) for at, name in enumerate(("wall_seconds", "cpu_seconds"))
    }


def report(name: str, settings: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], out: Path | None = None) -> None:
    """Print the rows as a table, and write them with the settings and the machine to results/bench/NAME.json."""
    path = out or results_home() / "bench" / f"{name}.json"
    write_json(path, {"name": name, "settings": dict(settings), "environment": describe(), "rows": list(rows)})
    print(f"{name}: " + ", ".join(f"{key} {value}" for key, value in settings.items()))
    heads = list(rows[0])
    cells = [[_shown(row[head]) for head in heads] for row in rows]
    widths = [max(len(head), *(len(line[at]) for line in cells)) for at, head in enumerate(heads)]
    for line in (heads, *cells):
        first, *others = (text.ljust(width) if not at else text.rjust(width) for at, (text, width) in
                          enumerate(zip(line, widths, strict=True)))  # fmt: skip
        print("  ".join([first, *others]))
    print(f"written: {path}")


def _shown(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)

"""Shared parts of the timings: median wall and CPU seconds, and one JSON file and one printed table per timing.

If other programs share the machine, CPU seconds are more reliable than wall seconds.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from mllm_eval.environment import describe
from mllm_eval.storage import results_home, write_json

ALONE = "MLLM_EVAL_BENCH_ALONE"


def timed(work: Callable[[], Any], rounds: int = 1) -> dict[str, float]:
    """Call `work` in each round. Return the medians of wall_seconds and cpu_seconds (sum over all threads)."""
    taken = []
    for _ in range(rounds):
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        taken.append((time.perf_counter() - wall, time.process_time() - cpu))
    return {
        name: statistics.median(one[at] for one in taken) for at, name in enumerate(("wall_seconds", "cpu_seconds"))
    }


def alone() -> bool:
    """Whether `at_threads` started this process, which then measures at one number of threads."""
    return ALONE in os.environ


def at_threads(script: str, threads: str) -> list[dict[str, Any]]:
    """Run a script once for each number of threads ("1,2"), each in its own process, and return all rows.

    The script gets the options of this process and `--threads N --out FILE`; `alone()` is true in it. Raises
    CalledProcessError if it fails.
    """
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="mllm-eval-bench-") as folder:
        for number in threads.split(","):
            out = Path(folder) / f"{number}.json"
            settings = {ALONE: "1", "OMP_NUM_THREADS": number, "MKL_NUM_THREADS": number}
            command = [sys.executable, script, *sys.argv[1:], "--threads", number, "--out", str(out)]
            subprocess.run(command, env={**os.environ, **settings}, check=True, stdout=subprocess.DEVNULL)
            rows += json.loads(out.read_text())["rows"]
    return rows


def memory(field: str) -> float:
    """The MiB in a field of /proc/self/status. Raises OSError if there is no such field.

    field: `VmHWM`, the peak of this process; `VmRSS`, what it uses now; `RssAnon`, its own part of that; `RssFile`, the
    pages of mapped files.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise OSError(f"/proc/self/status has no {field}")


def printed_by(command: Sequence[str], environment: Mapping[str, str]) -> dict[str, Any]:
    """Run a command, and return the JSON object that it prints as its last line. Raises CalledProcessError if it fails.

    A measurement in a process of its own is not changed by what was loaded or cached before it.
    """
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    printed: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return printed


def report(name: str, settings: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], out: Path | None = None) -> None:
    """Print neighbouring rows with equal columns as one table, and write all rows, settings and machine to a file.

    The file is `out`, or results/bench/NAME.json.
    """
    path = out or results_home() / "bench" / f"{name}.json"
    write_json(path, {"name": name, "settings": dict(settings), "environment": describe(), "rows": list(rows)})
    print(f"{name}: " + ", ".join(f"{key} {value}" for key, value in settings.items()))
    for heads, alike in groupby(rows, lambda row: list(row)):
        cells = [[_shown(row[head]) for head in heads] for row in alike]
        widths = [max(len(head), *(len(line[at]) for line in cells)) for at, head in enumerate(heads)]
        for line in (heads, *cells):
            first, *others = (text.ljust(width) if not at else text.rjust(width) for at, (text, width) in
                              enumerate(zip(line, widths, strict=True)))  # fmt: skip
            print("  ".join([first, *others]))
    print(f"written: {path}")


def markdown(path: Path, columns: Sequence[str] = ()) -> str:
    """The rows of a timing's JSON file as a Markdown table. columns: default all."""
    rows = json.loads(path.read_text())["rows"]
    heads = list(columns or rows[0])
    lines = [heads, ["---"] * len(heads), *([_short(row.get(head, "")) for head in heads] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _shown(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    # python bench/harness.py FILE.json [COLUMN,COLUMN]
    print(markdown(Path(sys.argv[1]), sys.argv[2].split(",") if len(sys.argv) > 2 else ()))

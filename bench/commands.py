"""Time commands that load no model: `--help`, lists, a table, `score`, and `eval` of a complete run.

    python bench/commands.py [--rounds 5] [--answers 63000]

Each command runs in its own process, whose wall and CPU seconds are measured. `eval` is timed if there is a complete
run under results/runs; `score` is timed on a file of `--answers` answers to GQA with their records. Writes
results/bench/commands.json.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from harness import report
from scoring import write

from mllm_eval.cli.looking import state
from mllm_eval.errors import UserError
from mllm_eval.run import Run
from mllm_eval.saved import saved_runs

COMMANDS = ["--help", "ls encoders", "table sota --published-only --format csv"]


def spent(arguments: list[str]) -> tuple[float, float]:
    """Wall and CPU seconds of one command of mllm-eval. Raises CalledProcessError if it fails."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-m", "mllm_eval", *arguments], check=True, capture_output=True)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def complete() -> list[str]:
    """The `eval` command of a run that has answered all sixteen benchmarks; an empty list if there is none.

    The names must still resolve to the hash of that run; with newer weights or another recipe, `eval` would train.
    """
    for run in saved_runs():
        try:
            now = Run.of(run.encoder.name, run.recipe.name, run.llm.name, run.seed)
        except UserError:
            continue
        if now.hash == run.hash and state(run).startswith("answered 16 "):
            return [f"eval {run.encoder.name} --recipe {run.recipe.name} --llm {run.llm.name} --seed {run.seed}"]
    return []


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--answers", type=int, default=63_000)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="mllm-eval-bench-") as folder:
        answers = write(Path(folder), "gqa", asked.answers)
        taken = {command: [spent(command.split()) for _ in range(asked.rounds)]
                 for command in [*COMMANDS, f"score gqa --answers {answers}", *complete()]}  # fmt: skip
    for command, seconds in taken.items():
        row = {"command": f"mllm-eval {command.replace(str(answers), f'({asked.answers:,})')}"}
        rows.append({**row, **{f"{clock}_seconds": statistics.median(one[at] for one in seconds)
                               for at, clock in enumerate(("wall", "cpu"))}})  # fmt: skip
    report("commands", {"rounds": asked.rounds}, rows, asked.out)


if __name__ == "__main__":
    main()

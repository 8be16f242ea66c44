"""Time a whole evaluation from nothing, in a folder that is thrown away: seconds and memory of each step.

    python bench/pipeline.py [--encoder mini-dino] [--benchmarks mme,chartqa]

Training is part of it: minutes for the miniature. Writes results/bench/pipeline.json.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

from harness import report

from mllm_eval import pipeline
from mllm_eval.cli.display import display
from mllm_eval.pipeline.ledger import Ledger
from mllm_eval.storage import results_home


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--encoder", default="mini-dino")
    parser.add_argument("--benchmarks", help="comma-separated; default: the sixteen of the paper")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    out = asked.out or results_home() / "bench" / "pipeline.json"
    with tempfile.TemporaryDirectory(prefix="mllm-eval-bench-") as folder:
        os.environ["MLLM_EVAL_RESULTS"] = folder
        listener = display()
        names = asked.benchmarks.split(",") if asked.benchmarks else None
        run = pipeline.evaluate(asked.encoder, benchmarks=names, reporter=listener)
        lines = Ledger(run.folder, listener).lines()
    kept = ("step", "seconds", "cpu_seconds", "peak_mib")
    rows = [{key: line[key] for key in kept} for line in lines]
    total = {"step": "in all", **{key: sum(row[key] for row in rows) for key in kept[1:3]}}
    rows.append({**total, "peak_mib": max(row["peak_mib"] for row in rows)})
    report("pipeline", {"encoder": asked.encoder, "benchmarks": asked.benchmarks or "all"}, rows, out)


if __name__ == "__main__":
    main()

"""Time a whole evaluation that starts without any results: seconds and peak memory of each step.

    python bench/pipeline.py [--encoder mini-dino] [--benchmarks mme,chartqa]

It includes training, which takes minutes for the miniature. The run is made in a temporary folder. Writes
results/bench/pipeline.json.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

from harness import report

from mllm_eval import pipeline
from mllm_eval.cli.display import display
from mllm_eval.results import read_timings
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
        timings = read_timings(run.folder)
    rows = [
        {"step": one.title, "seconds": one.seconds, "cpu_seconds": one.cpu_seconds, "peak_mib": one.peak_mib}
        for one in timings
    ]
    seconds, cpu = sum(one.seconds for one in timings), sum(one.cpu_seconds for one in timings)
    peak = max(one.peak_mib for one in timings)
    rows.append({"step": "in all", "seconds": seconds, "cpu_seconds": cpu, "peak_mib": peak})
    report("pipeline", {"encoder": asked.encoder, "benchmarks": asked.benchmarks or "all"}, rows, out)


if __name__ == "__main__":
    main()

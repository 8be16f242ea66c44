"""Rewrites golden.json on a CPU, after a change that affects losses: `python -m mllm_eval.gpucheck.golden [NAME ...]`.

The losses are those of the miniature trained in float32 without DeepSpeed, for each number of steps that a check uses.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from mllm_eval.gpucheck.session import Session
from mllm_eval.gpucheck.trainings import DRY, FULL, GOLDEN, PLAIN, run_worker
from mllm_eval.storage import read_json, write_json

WAYS = {"dry": DRY, "full": FULL}


def main(names: list[str]) -> None:
    """Trains for the steps of these names (default: all), and stores the losses; those of other names are kept."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    for name in names or WAYS:
        with tempfile.TemporaryDirectory(prefix="mllm-eval-golden-") as folder:
            session = Session(Path(folder), True, "cpu", "CPU", 7200, lambda _: None)
            outcome = run_worker(session, PLAIN, WAYS[name], "golden", more=["--questions=0"])
        known = read_json(GOLDEN) if GOLDEN.is_file() else {}
        write_json(GOLDEN, {**known, name: outcome["losses"]})


if __name__ == "__main__":
    main(sys.argv[1:])

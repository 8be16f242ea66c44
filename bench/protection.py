"""Time what fsync and checksums cost: training, answering and scoring with them and without, side by side.

    python bench/protection.py [--rounds 3] [--encoder mini-dino] [--recipe mini] [--benchmarks mme,gqa] [--train]

Each is a process of its own, with and without by turns, from the same folder of results: without --train that of the
run that is under results/runs, whose answers and scores are made again. `inside` are the seconds that were spent in
fsync and checksums themselves, which tell more than a difference where other programs share the machine. Writes
results/bench/protection.json.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness import report

from mllm_eval.storage import results_home

inside = 0.0
depth = 0


def timed(plain: Callable[..., Any]) -> Callable[..., Any]:
    """The function, the seconds in it counted; what it calls of its kind is counted once."""

    def call(*given: Any, **named: Any) -> Any:
        global inside, depth
        start, depth = time.perf_counter(), depth + 1
        try:
            return plain(*given, **named)
        finally:
            depth -= 1
            if not depth:
                inside += time.perf_counter() - start

    return call


def put(module: str, name: str, made: Callable[[Any], Any]) -> None:
    """Put something in the place of a function, wherever it was imported to."""
    plain = getattr(sys.modules[module], name)
    replaced = made(plain)
    for one in [one for title, one in sys.modules.items() if title.startswith("mllm_eval")]:
        if getattr(one, name, None) is plain:
            setattr(one, name, replaced)


def child(protected: bool, words: list[str]) -> int:
    """A command in this process; its seconds are printed last."""
    import mllm_eval.answers
    import mllm_eval.cli.app
    import mllm_eval.features
    import mllm_eval.pipeline
    import mllm_eval.train.stages

    off: dict[tuple[str, str], Any] = {
        ("mllm_eval.disk", "sync"): lambda file: None,
        ("mllm_eval.disk", "sync_folder"): lambda folder: None,
        ("mllm_eval.disk", "as_written"): lambda path: True,
        ("mllm_eval.disk", "checksum"): lambda path: "",
        ("mllm_eval.model.sums", "_sum"): lambda path: "",
        ("mllm_eval.features.shards", "checksum"): lambda image, row: b"0" * 16,
    }
    for (module, name), nothing in off.items():
        put(module, name, timed if protected else lambda _, nothing=nothing: nothing)
    start, before = time.perf_counter(), time.process_time()
    try:
        code = int(mllm_eval.cli.app.app(words, standalone_mode=False) or 0)
    except SystemExit as end:
        code = int(end.code or 0)
    spent = {"wall": time.perf_counter() - start, "cpu": time.process_time() - before, "inside": inside}
    print("\n" + json.dumps(spent))
    return code


def once(protected: bool, words: list[str], source: Path | None) -> dict[str, float]:
    """Seconds of a command from a copy of a folder of results."""
    with tempfile.TemporaryDirectory(prefix="mllm-eval-bench-", dir=results_home().parent) as folder:
        if source is not None:
            shutil.copytree(source, folder, dirs_exist_ok=True)
        command = [sys.executable, __file__, "--child", "on" if protected else "off", *words]
        environment = {**os.environ, "MLLM_EVAL_RESULTS": folder}
        done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
        found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--encoder", default="mini-dino")
    parser.add_argument("--recipe", default="mini")
    parser.add_argument("--benchmarks", default="mme,gqa")
    parser.add_argument("--train", action="store_true", help="from nothing, not from the run that is there")
    asked = parser.parse_args()
    words = ["eval", asked.encoder, "--recipe", asked.recipe, "--benchmarks", asked.benchmarks]
    with tempfile.TemporaryDirectory(prefix="mllm-eval-bench-", dir=results_home().parent) as folder:
        source = None
        if not asked.train:
            from mllm_eval.run import Run

            run, source = Run.of(asked.encoder, asked.recipe), Path(folder)
            left_out = shutil.ignore_patterns("answers", "scores", "settled.json")
            shutil.copytree(run.folder, source / "runs" / run.hash, ignore=left_out)
        taken: dict[bool, list[dict[str, float]]] = {True: [], False: []}
        for turn in range(asked.rounds):
            for protected in (True, False) if turn % 2 else (False, True):
                taken[protected].append(once(protected, words, source))
    rows = [
        {"fsync and checksums": "on" if protected else "off",
         **{f"{key} seconds": statistics.median(one[key] for one in found) for key in ("wall", "cpu", "inside")}}
        for protected, found in taken.items()
    ]  # fmt: skip
    shares = [one["inside"] / one["wall"] for one in taken[True]]
    rows[0]["share inside, %"] = rows[1]["share inside, %"] = 100 * statistics.median(shares)
    settings = {"rounds": asked.rounds, "command": " ".join(words), "trained": asked.train}
    report("protection", settings, rows)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        sys.exit(child(sys.argv[2] == "on", sys.argv[3:]))
    main()

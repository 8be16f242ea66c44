"""Time the cost of fsync and checksums: training, saving, answering and scoring with them and without.

    python bench/protection.py [--rounds 3] [--encoder mini-dino] [--recipe mini] [--benchmarks mme,gqa] [--train]
    python bench/protection.py --steps 40 [--rounds 3]

Each measurement runs in its own process, alternately with and without protection. By default it starts from a copy of
the run under results/runs, and answers and scores it again. With --train it starts without results. With --steps it
also trains, but each stage has only so many steps, on the first rows (.jsonl); with 40 steps or more it writes as many
checkpoints as a whole training. `inside` is the time spent in fsync and checksums themselves, in seconds; if other
programs share the machine, it is more reliable than the difference of the two ways. It is given for the whole command
and for its parts: training without saving, checkpoints during training, the final checkpoint, and the rest. Writes
results/bench/protection.json.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

from harness import printed_by, report

from mllm_eval.storage import locate, results_home

inside = 0.0
depth = 0
TRAINED, SAVED, FINAL, REST = "training", "checkpoints on the way", "the final checkpoint", "the rest"
# Part of the command -> wall seconds, seconds in fsync and checksums, number of calls.
parts: dict[str, list[float]] = {}


def timed(plain: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function so that its seconds are added to `inside`; nested calls are counted only once."""

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


def part(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator: add the seconds of a function to the part `name`."""

    def of(plain: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            start, before = time.perf_counter(), inside
            try:
                return plain(*given, **named)
            finally:
                own = parts.setdefault(name, [0.0, 0.0, 0.0])
                for at, more in enumerate((time.perf_counter() - start, inside - before, 1.0)):
                    own[at] += more

        return call

    return of


def apart(wall: float) -> dict[str, list[float]]:
    """The parts without overlap: saving is subtracted from training, and what no part covers is the rest.

    wall: seconds of the whole command.
    """
    separate = {name: list(own) for name, own in parts.items()}
    if TRAINED in separate:
        for name in (SAVED, FINAL):
            for at in (0, 1):
                separate[TRAINED][at] -= separate.get(name, [0.0, 0.0])[at]
    covered, covered_inside = (sum(own[at] for own in separate.values()) for at in (0, 1))
    separate[REST] = [wall - covered, inside - covered_inside, 1.0]
    return separate


def put(module: str, name: str, made: Callable[[Any], Any]) -> None:
    """Replace a function in every module of the package that imported it. made: original -> replacement."""
    plain = getattr(sys.modules[module], name)
    replaced = made(plain)
    for one in [one for title, one in sys.modules.items() if title.startswith("mllm_eval")]:
        if getattr(one, name, None) is plain:
            setattr(one, name, replaced)


def child(protected: bool, words: list[str]) -> int:
    """Run a command of mllm-eval in this process, and print its seconds as JSON in the last line.

    protected: with fsync and checksums. Returns the command's exit code.
    """
    import mllm_eval.answers
    import mllm_eval.cli.app
    import mllm_eval.features
    import mllm_eval.pipeline
    import mllm_eval.train.stages
    import mllm_eval.train.trainer

    off: dict[tuple[str, str], Any] = {
        ("mllm_eval.disk", "sync"): lambda file: None,
        ("mllm_eval.disk", "sync_folder"): lambda folder: None,
        ("mllm_eval.disk", "as_written"): lambda path: True,
        ("mllm_eval.disk", "checksum"): lambda path: "",
        ("mllm_eval.model.sums", "file_sum"): lambda path: "",
        ("mllm_eval.features.storeshards", "checksum"): lambda image, row: b"0" * 16,
    }
    for (module, name), nothing in off.items():
        put(module, name, timed if protected else lambda _, nothing=nothing: nothing)
    put("mllm_eval.train.stages", "train", part(TRAINED))
    put("mllm_eval.model.checkpoint", "save_checkpoint", part(FINAL))
    trainer = mllm_eval.train.trainer.StageTrainer
    trainer._save_checkpoint = part(SAVED)(trainer._save_checkpoint)  # type: ignore[method-assign]
    start, before = time.perf_counter(), time.process_time()
    try:
        code = int(mllm_eval.cli.app.app(words, standalone_mode=False) or 0)
    except SystemExit as end:
        code = int(end.code or 0)
    wall = time.perf_counter() - start
    spent = {"wall": wall, "cpu": time.process_time() - before, "inside": inside, "parts": apart(wall)}
    print("\n" + json.dumps(spent))
    return code


def once(protected: bool, words: list[str], source: Path | None) -> dict[str, Any]:
    """Seconds of a command that starts from a copy of the results folder `source`, or without results."""
    # This folder is on the same disk as the results, and git ignores it.
    place = results_home() / "bench"
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="protection-", dir=place) as folder:
        if source is not None:
            shutil.copytree(source, folder, dirs_exist_ok=True)
        environment = {**os.environ, "MLLM_EVAL_RESULTS": folder}
        return printed_by([sys.executable, __file__, "--child", "on" if protected else "off", *words], environment)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--encoder", default="mini-dino")
    parser.add_argument("--recipe", default="mini")
    parser.add_argument("--benchmarks", default="mme,gqa")
    parser.add_argument("--train", action="store_true", help="from nothing, not from the run that is there")
    parser.add_argument("--steps", type=int, help="as --train, with so few steps of each stage")
    asked = parser.parse_args()
    begins = asked.train or asked.steps is not None
    # This folder is on the same disk as the results, and git ignores it.
    place = results_home() / "bench"
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="protection-", dir=place) as folder:
        recipe, source = asked.recipe, None
        if asked.steps is not None:
            recipe = str(few_steps(asked.recipe, asked.steps, Path(folder)))
        words = ["eval", asked.encoder, "--recipe", recipe, "--benchmarks", asked.benchmarks]
        if not begins:
            from mllm_eval.run import Run

            run, source = Run.of(asked.encoder, asked.recipe), Path(folder)
            left_out = shutil.ignore_patterns("answers", "scores", "settled.json")
            shutil.copytree(run.folder, source / "runs" / run.hash, ignore=left_out)
        taken: dict[bool, list[dict[str, Any]]] = {True: [], False: []}
        for turn in range(asked.rounds):
            for protected in (True, False) if turn % 2 else (False, True):
                taken[protected].append(once(protected, words, source))
    settings = {"rounds": asked.rounds, "command": " ".join(words), "trained": begins, "steps": asked.steps}
    report("protection", settings, [*whole(taken), *by_part(taken)])


def few_steps(name: str, steps: int, folder: Path) -> Path:
    """Write a recipe with `steps` steps per stage and only the rows that these steps read, and return its path."""
    from mllm_eval.catalog import load_recipe

    recipe = load_recipe(name)
    said: dict[str, Any] = {"base": name, "name": "few"}
    for number, stage in ((1, recipe.stage1), (2, recipe.stage2)):
        data = []
        for place, one in enumerate(stage.data):
            path = folder / f"stage{number}-{place}.jsonl"
            with open(locate(one.path), "rb") as file:
                path.write_bytes(b"".join(islice(file, steps * stage.batch)))
            data.append({"path": str(path), "images": one.images})
        said[f"stage{number}"] = {"steps": steps, "data": data}
    path = folder / "few.yaml"
    path.write_text(json.dumps(said))
    return path


def whole(taken: dict[bool, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Table rows of the whole command, with protection and without: medians over the rounds."""
    shares = [one["inside"] / one["wall"] for one in taken[True]]
    return [
        {"fsync and checksums": "on" if protected else "off",
         **{f"{key} seconds": statistics.median(one[key] for one in rounds) for key in ("wall", "cpu", "inside")},
         "share inside, %": 100 * statistics.median(shares)}
        for protected, rounds in taken.items()
    ]  # fmt: skip


def by_part(taken: dict[bool, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Table rows of the command's parts: medians over the rounds."""
    rows = []
    for name in taken[True][0]["parts"]:
        on, off = ([one["parts"][name] for one in taken[protected]] for protected in (True, False))
        wall, spent = (statistics.median(own[at] for own in on) for at in (0, 1))
        rows.append({
            "part": name, "times": round(on[0][2]), "wall seconds, on": wall,
            "wall seconds, off": statistics.median(own[0] for own in off), "inside seconds": spent,
            "share inside, %": 100 * spent / wall if wall else 0.0,
        })  # fmt: skip
    return rows


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        sys.exit(child(sys.argv[2] == "on", sys.argv[3:]))
    main()

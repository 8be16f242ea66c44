"""Measure how answering time grows with questions per image, images, visual tokens per image, and processes.

    python bench/growth.py [--of questions,images,tokens,ranks] [--rounds 3] [--plots docs/images/performance]

One of the four quantities grows while the others are fixed. Each point is measured in this project's way, from images
that are not encoded yet to answers in the journal, and in the plain way of bench/asked.py, which answers one question
after another and encodes its image each time. The two ways alternate. Models are random (encoder: 6 layers of width
192; LLaMA: 8 layers of width 256), with one thread per process. Seconds are CPU time, which other programs disturb
least; with several processes they are wall time from the moment at which all are ready. Printed for each quantity is
the slope of a line through the logarithms; a slope of 1 means that twice as much takes twice as long. `--plots` draws
one figure per quantity. Writes results/bench/growth.json.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# The quantity that grows -> (its name, its values, the fixed values of the other quantities).
GROWING: dict[str, tuple[str, list[int], dict[str, int]]] = {
    "questions": ("questions per image", [1, 2, 4, 8, 16, 32], {"images": 2, "tokens": 144}),
    "images": ("images", [2, 4, 8, 16, 32], {"questions": 4, "tokens": 144}),
    "tokens": ("visual tokens per image", [16, 36, 64, 144, 256, 576], {"images": 2, "questions": 4}),
    "ranks": ("processes", [1, 2], {"images": 16, "questions": 8, "tokens": 144}),
}
WAYS = ("engine", "plain")
ROWS = 32  # most questions per batch; larger batches would leave several processes nothing to share
LLM, ENCODER = "8x256", (192, 6, 3, 768)


def answered(shape: dict[str, int], way: str, folder: Path, ranks: int) -> tuple[float, float]:
    """Wall and CPU seconds of answering in this process. Among several processes it answers its share."""
    import asked
    import torch

    from mllm_eval.answers import Journal
    from mllm_eval.catalog import Encoder
    from mllm_eval.distributed import Share, barrier
    from mllm_eval.features import Features, FeatureStore
    from mllm_eval.generate import Hooks, Limits, Task, TemplateFormat, answer_tasks
    from mllm_eval.generate.engine import Engine

    torch.set_num_threads(1)
    share = Share.of_group() if ranks > 1 else Share()
    size = asked.PATCH * math.isqrt(shape["tokens"])
    asked.ENCODERS["growth"] = (*ENCODER, size)
    model = asked.build("growth", LLM)
    facts = Encoder.model_validate(model.config.encoder)
    asked.use_kernels(model, "auto" if way == "engine" else "torch")

    def answer(questions: list[Any], name: str) -> tuple[float, float]:
        barrier()
        wall, cpu = time.perf_counter(), time.process_time()
        if way == "plain":
            asked.plain_way(model, questions[share.rank :: ranks])
        else:
            store = FeatureStore(folder / name, (facts.grid, facts.grid), facts.width)
            features = Features(store, lambda: model.encoder)
            images = list({image.sha256: image for sample in questions for image in sample.images}.values())
            features.fill(images[share.rank :: ranks])
            journal = Journal(folder / f"{name}.jsonl", share.rank)
            own = Task(questions, asked.LONGEST, journal, TemplateFormat(asked.TEMPLATE))
            engine = Engine(model, asked.TEMPLATE, features, Limits(rows=ROWS))
            answer_tasks(engine, [own], Hooks(share=share))
        return time.perf_counter() - wall, time.process_time() - cpu

    answer(asked.samples([2] * ranks), "warm")
    return answer(asked.samples([shape["questions"]] * shape["images"]), "asked")


def processes(shape: dict[str, int], way: str, ranks: int) -> tuple[float, float]:
    """Seconds of several processes that share the work: wall time of the slowest, and the sum of their CPU time."""
    from mllm_eval.distributed.launchers import free_port

    with tempfile.TemporaryDirectory() as folder:
        group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(ranks)}
        work = json.dumps({"shape": shape, "way": way, "folder": folder, "ranks": ranks})
        command = [sys.executable, __file__, "--inside", work]
        started = [
            subprocess.Popen(command, env={**os.environ, **group, "RANK": str(rank), "OMP_NUM_THREADS": "1"},
                             stdout=subprocess.PIPE)
            for rank in range(ranks)
        ]  # fmt: skip
        taken = [json.loads(one.communicate()[0]) for one in started]
    return max(wall for wall, _ in taken), sum(cpu for _, cpu in taken)


def inside(work: dict[str, Any]) -> tuple[float, float]:
    """The work of one of several processes; `work` has the arguments of `answered`."""
    import torch

    if work["ranks"] > 1:
        # `mllm_eval.distributed.meet` would take NCCL where there is a GPU, but the models are on the CPU.
        torch.distributed.init_process_group("gloo")
    seconds = answered(work["shape"], work["way"], Path(work["folder"]), work["ranks"])
    if work["ranks"] > 1:
        torch.distributed.destroy_process_group()
    return seconds


def measured(of: str, value: int, shape: dict[str, int], rounds: int) -> dict[str, Any]:
    """One point as a table row: median seconds of both ways over the rounds; the ways alternate."""
    taken: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    for _ in range(rounds):
        for way, seconds in taken.items():
            if of == "ranks":
                seconds.append(processes(shape, way, value))
            else:
                with tempfile.TemporaryDirectory() as folder:
                    seconds.append(answered({**shape, of: value}, way, Path(folder), 1))
    row: dict[str, Any] = {"of": of, "value": value}
    clock = 0 if of == "ranks" else 1
    for way, seconds in taken.items():
        row[f"{way}_seconds"] = statistics.median(one[clock] for one in seconds)
    return {**row, "clock": ("wall", "cpu")[clock], "times": row["plain_seconds"] / row["engine_seconds"]}


def slope(rows: Sequence[dict[str, Any]], way: str) -> float:
    """Slope of the least-squares line through the logarithms of values and seconds; nan for a single point."""
    if len(rows) < 2:
        return math.nan
    points = [(math.log(row["value"]), math.log(row[f"{way}_seconds"])) for row in rows]
    return statistics.linear_regression(*zip(*points, strict=True)).slope


def drawn(of: str, rows: Sequence[dict[str, Any]]) -> Figure:
    """A figure of seconds against the growing quantity, on logarithmic axes, with a slope at each line."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, NullFormatter

    from mllm_eval.report.site.figures import INK, PAGE, bare, hue

    figure = Figure(figsize=(5.2, 3.3), layout="constrained", facecolor=PAGE)
    axes = figure.subplots()
    bare(axes, "y")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=10)
    values = [row["value"] for row in rows]
    for place, (way, name) in enumerate((("plain", "one by one"), ("engine", "this engine"))):
        seconds = [row[f"{way}_seconds"] for row in rows]
        axes.plot(values, seconds, "o-", color=hue(1 - place), markersize=4.5, linewidth=1.6)
        axes.annotate(f"{name}\nslope {slope(rows, way):.2f}", (values[-1], seconds[-1]), (7, 0),
                      textcoords="offset points", va="center", color=hue(1 - place), fontsize=8.5)  # fmt: skip
    for row in (rows[0], rows[-1]):
        middle = math.sqrt(row["plain_seconds"] * row["engine_seconds"])
        axes.vlines(row["value"], row["engine_seconds"], row["plain_seconds"], color=INK, linewidth=0.6, alpha=0.5)
        left, close = row is rows[0], row["times"] < 1.5
        axes.annotate(f"{row['times']:.1f}x", (row["value"], middle), (5 if left else -5, 11 if close else 0),
                      textcoords="offset points", va="center", ha="left" if left else "right", color=INK,
                      fontsize=8.5)  # fmt: skip
    axes.set_xticks(values, [str(value) for value in values])
    axes.minorticks_off()
    axes.margins(y=0.1)
    low, high = axes.get_ylim()
    steps = [step * 10.0**power for power in range(-3, 5) for step in (1, 2, 5)]
    shown = [step for step in steps if low <= step <= high]
    axes.yaxis.set_major_locator(FixedLocator(shown))
    axes.set_yticks(shown, [f"{step:g} s" for step in shown])
    axes.yaxis.set_minor_formatter(NullFormatter())
    left, right = axes.get_xlim()
    axes.set_xlim(left, right * (right / left) ** 0.24)
    axes.set_xlabel(GROWING[of][0])
    axes.set_title(f"{'Wall' if rows[0]['clock'] == 'wall' else 'CPU'} seconds to answer")
    return figure


def draw(folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write one SVG per growing quantity into a folder."""
    from mllm_eval.report.site.figures import style

    folder.mkdir(parents=True, exist_ok=True)
    for of in dict.fromkeys(row["of"] for row in rows):
        with style(of):
            figure = drawn(of, [row for row in rows if row["of"] == of])
            figure.savefig(folder / f"growth-{of}.svg", metadata={"Date": None, "Creator": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--of", default=",".join(GROWING), help="what grows, comma-separated")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--most", type=int, help="leave out larger values")
    parser.add_argument("--plots", type=Path, help="folder for a picture of each")
    parser.add_argument("--redraw", type=Path, help="only draw what this file of an earlier run holds")
    parser.add_argument("--inside", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    if asked.inside:
        print(json.dumps(inside(asked.inside)))
        return
    if asked.redraw:
        draw(asked.plots, json.loads(asked.redraw.read_text())["rows"])
        return
    rows, told = [], []
    for of in asked.of.split(","):
        name, values, others = GROWING[of]
        own = [measured(of, value, others, asked.rounds) for value in values if value <= (asked.most or value)]
        rows += own
        if len(own) > 1:
            slopes = {way: slope(own, way) for way in WAYS}
            told.append(
                f"{name}: " + ", ".join(f"{way} grows by the power {power:.2f}" for way, power in slopes.items())
            )
    report("growth", {"rounds": asked.rounds}, rows, asked.out)
    print("\n".join(told))
    if asked.plots:
        draw(asked.plots, rows)


if __name__ == "__main__":
    main()

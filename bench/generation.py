"""Time answering by this project's engine against a plain loop over questions, on the same model.

    python bench/generation.py [--rounds 3] [--llms 8x256,SmolLM-135M] [--threads 1,2] [--quick]

There are 31 questions per image (as in GQA), 2 (as in MME) or 1. The encoder has the shape of a CLIP ViT-S/14 at 336
pixels, which gives 576 tokens per image. Weights are random, and answers are a few tokens long. The plain way decodes
and encodes the image again for every question, and answers at batch size 1. `cold` includes decoding, encoding and
storing the images; with `warm` their features are in the store. The plain way is timed on the first 32 questions (16
for the larger LLM) and scaled up, because every question costs it the same; on these questions the answers of all ways
are compared. Seconds are CPU time at one thread and wall time at several, medians over the rounds; the ways alternate.
`same kernels` compares with a plain way that uses this project's matrix products, too; this part of the gain comes from
computing less.

A second table has pictures of many shapes, with all padding tokens and without any (`row_token`, `padding: hide`), so
that prompts differ in length. It gives seconds per prompt position; `speed_a_position` is the speed per position
without padding, relative to the speed with padding. Writes results/bench/generation.json.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from harness import alone, at_threads, report

# Number of images, and of questions per image.
WORKLOADS = {"GQA-shaped": (8, 31), "MME-shaped": (16, 2), "1 an image": (32, 1)}
SHORTER = {"GQA-shaped": (8, 31), "MME-shaped": (8, 2), "1 an image": (8, 1)}
QUICK = {"GQA-shaped": (2, 5), "MME-shaped": (3, 2), "1 an image": (4, 1)}
# SHAPES are landscape and portrait photographs, a square, a chart and a page. Of the 24 x 24 image tokens and the row
# tokens they have 264 to 600.
MANY = {"GQA-shaped": (12, 31), "MME-shaped": (96, 2), "1 an image": (192, 1)}
WAYS = ("shown", "hidden")
SHAPES = ((640, 480), (480, 640), (640, 427), (512, 512), (800, 1796), (1700, 2200))


def measure(threads: int, llms: list[str], rounds: int, quick: bool) -> list[dict[str, Any]]:
    """One row per LLM and workload."""
    import torch
    from asked import build, compare, samples, shared_way_once

    torch.set_num_threads(threads)
    rows = []
    for llm in llms:
        model = build("2x32@56" if quick else "ViT-S/14@336", llm)
        shared_way_once(model, samples([2, 1]))
        workloads = QUICK if quick else WORKLOADS if llm == "8x256" else SHORTER
        for name, (images, each) in workloads.items():
            about, seconds = compare(model, samples([each] * images), threads, rounds, 32 if llm == "8x256" else 16)
            row: dict[str, Any] = {"llm": llm, "workload": name, "threads": threads, **about}
            row |= {f"{way}_seconds": taken for way, taken in seconds.items()}
            for way in ("cold", "warm"):
                row[f"{way}_speedup"] = seconds["plain"] / seconds[way]
                row[f"{way}_same_kernels"] = seconds["plain_quick"] / seconds[way]
            rows.append(row)
    return rows


def measure_shapes(threads: int, llms: list[str], rounds: int, quick: bool) -> list[dict[str, Any]]:
    """One row per LLM and workload: pictures of many shapes, with their padding tokens and without.

    Both ways alternate. Features are at hand, so seconds are those of answering alone, divided by the prompt positions
    that the LLM processes. There are enough images to fill the engine's batches, whose prefixes have equal lengths.
    """
    import torch
    from asked import build, compare_shapes, samples, shared_way_once

    torch.set_num_threads(threads)
    rows = []
    for llm in llms:
        models = {way: build("2x32@56" if quick else "ViT-S/14@336", llm, hide=way == "hidden") for way in WAYS}
        for model in models.values():
            shared_way_once(model, samples([2, 1]))
        for name, (images, each) in (QUICK if quick else MANY).items():
            asked = samples([each] * images, shapes=SHAPES)
            about: dict[str, Any] = compare_shapes(models, asked, threads, rounds, 32 if llm == "8x256" else 16)
            shown, hidden = (about[f"{way}_microseconds_a_position"] for way in WAYS)
            row = {"llm": llm, "workload": f"{name}, shapes", "threads": threads, **about}
            rows.append({**row, "speed_a_position": shown / hidden})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--llms", default="8x256,SmolLM-135M")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--shapes", action="store_true", help="only pictures of many shapes")
    parser.add_argument("--quick", action="store_true", help="tiny models, to see that it runs")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    llms = ["2x32"] if options.quick else options.llms.split(",")
    if alone():
        settings = int(options.threads), llms, options.rounds, options.quick
        rows = [] if options.shapes else measure(*settings)
        rows += measure_shapes(*settings)
    else:
        rows = at_threads(__file__, options.threads)
    report("generation", {"rounds": options.rounds, "quick": options.quick}, rows, options.out)


if __name__ == "__main__":
    main()

"""Time all sixteen benchmarks, with their true numbers of questions per image, against a plain loop over questions.

    python bench/sixteen.py [--images 16] [--rounds 3] [--llm 8x256] [--threads 1,2] [--quick]

The numbers of questions and images of the benchmarks (configs/reference/benchmark_sizes.csv) are scaled down to
`--images` images in all, which are divided among the benchmarks by largest remainder. Models, ways and clocks are those
of bench/generation.py. Printed as well are the necessary operations in GFLOP, and the share of this machine's peak
FLOP/s that was reached. Necessary in any way are: encoding each image once up to the layer that is read, processing its
prefix once in the LLM, processing each question's own tokens and its answer's, and logits only where a token is chosen.
The peak is measured in the same run with as many threads, on float32 matrix products of 2048 x 2048, by oneDNN and by
torch's own choice. Writes results/bench/sixteen.json.
"""

from __future__ import annotations

import argparse
import csv
import statistics
from pathlib import Path
from typing import Any

from harness import alone, at_threads, report

from mllm_eval.storage import SHIPPED

SIZES = SHIPPED / "configs" / "reference" / "benchmark_sizes.csv"


def questions(images: int) -> list[int]:
    """Number of questions for each of `images` images."""
    with open(SIZES, newline="") as lines:
        sizes = [(row["benchmark"], int(row["questions"]), int(row["images"])) for row in csv.DictReader(lines)]
    total = sum(count for _, _, count in sizes)
    shares = [count / total * images for _, _, count in sizes]
    taken = [int(share) for share in shares]
    left = sorted(range(len(sizes)), key=lambda at: taken[at] - shares[at])
    for at in left[: images - sum(taken)]:
        taken[at] += 1
    # The total stays in proportion: fractions of a question are carried over to the next image.
    asked: list[int] = []
    carried = 0.0
    wanted = sum(count for _, count, _ in sizes) / total * images
    for (_, count, shown), mine in zip(sizes, taken, strict=True):
        for _ in range(mine):
            carried += count / shown
            asked.append(max(1, int(carried)))
            carried -= asked[-1]
    # Questions of benchmarks that got no image are added to the image with the most questions.
    asked[asked.index(max(asked))] += max(0, round(wanted) - sum(asked))
    return asked


def operations(model: Any, asked: list[Any], answers: list[Any]) -> dict[str, float]:
    """The necessary floating-point operations in GFLOP; a multiplication with a weight counts as two operations.

    encoder: images x layers up to the one read x (tokens x 2 x weights of a layer + 4 x tokens^2 x width).
    heads (prefixes with an image), questions: tokens x 2 x weights of the LLM's layers, and 4 x width x tokens attended
    to; where no token is chosen, the last layer only computes keys and values. logits: 2 x width x vocabulary for each
    token of an answer.
    """
    vision, text = model.encoder.model.config, model.llm.config
    patches = (vision.image_size // vision.patch_size) ** 2
    width, tokens = vision.hidden_size, patches + 1
    layer = tokens * 2 * (4 * width**2 + 2 * width * vision.intermediate_size) + 4 * tokens**2 * width
    read = vision.num_hidden_layers + 1 + model.encoder.facts.feature_layer
    images = {sample.images[0].sha256 for sample in asked}
    encoded = len(images) * (read * layer + patches * 2 * 3 * vision.patch_size**2 * width)
    wide, depth = text.hidden_size, text.num_hidden_layers
    projected = len(images) * patches * 2 * (width * wide + wide**2)
    narrow = wide * text.num_key_value_heads // text.num_attention_heads
    key_value = 2 * 2 * wide * narrow
    whole = key_value + 2 * (2 * wide**2 + 3 * wide * text.intermediate_size)
    head = _head_tokens(model, asked)
    heads = len(images) * (head * ((depth - 1) * whole + key_value) + (depth - 1) * 4 * wide * head * (head + 1) / 2)
    tails = logits = 0.0
    for answer in answers:
        own, out = answer.tokens_in - head, answer.tokens_out
        new = own + out - 1
        seen = sum(head + at for at in range(1, new + 1))
        tails += new * ((depth - 1) * whole + key_value) + out * (whole - key_value) + (depth - 1) * 4 * wide * seen
        logits += out * 2 * wide * text.vocab_size
    parts = {"encoder": encoded, "projector": projected, "heads": heads, "questions": tails, "logits": logits}
    return {name: count / 1e9 for name, count in parts.items()}


def _head_tokens(model: Any, asked: list[Any]) -> int:
    from asked import requests_of, tokenized

    (length,) = tokenized(model).lengths(requests_of(asked[:1]))
    return length.prefix_tokens


def peak(threads: int, size: int) -> tuple[float, float]:
    """GFLOP/s of square matrix products [size, size]: by oneDNN if it is used here, and by torch's own choice."""
    import torch
    from asked import clock

    from mllm_eval.kernels import kernels_here, product

    left, right = torch.randn(size, size), torch.randn(size, size)
    now, speeds = clock(threads), []
    with torch.inference_mode():
        for multiply in (
            product if kernels_here("auto") == "onednn" else torch.nn.functional.linear,
            torch.nn.functional.linear,
        ):
            multiply(left, right)
            taken = []
            for _ in range(9):
                start = now()
                multiply(left, right)
                taken.append(now() - start)
            speeds.append(2 * size**3 / statistics.median(taken) / 1e9)
    return speeds[0], speeds[1]


def measure(threads: int, llm: str, images: int, rounds: int, quick: bool) -> list[dict[str, Any]]:
    """Two table rows: without stored features (cold), and with them (warm)."""
    import torch
    from asked import build, compare, samples, shared_way_once

    torch.set_num_threads(threads)
    model = build("2x32@56" if quick else "ViT-S/14@336", llm)
    shared_way_once(model, samples([2, 1]))
    asked = samples(questions(images))
    before = peak(threads, 256 if quick else 2048)
    about, seconds = compare(model, asked, threads, rounds)
    after = peak(threads, 256 if quick else 2048)
    best, usual = (statistics.mean(pair) for pair in zip(before, after, strict=True))
    parts = operations(model, asked, shared_way_once(model, asked))
    rows = []
    for way in ("cold", "warm"):
        needed = sum(count for name, count in parts.items() if way == "cold" or name != "encoder")
        row: dict[str, Any] = {"llm": llm, "way": way, "threads": threads, **about}
        row |= {f"{name}_gflop": count if way == "cold" or name != "encoder" else 0.0 for name, count in parts.items()}
        row |= {"plain_seconds": seconds["plain"], "plain_quick_seconds": seconds["plain_quick"]}
        row |= {"seconds": seconds[way], "speedup": seconds["plain"] / seconds[way]}
        row |= {"same_kernels": seconds["plain_quick"] / seconds[way], "gflop_a_second": needed / seconds[way]}
        row |= {"peak": best, "usual_peak": usual}
        row |= {"of_peak": needed / seconds[way] / best, "of_usual_peak": needed / seconds[way] / usual}
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--llm", default="8x256")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--quick", action="store_true", help="tiny models, to see that it runs")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    llm, images = ("2x32", 8) if options.quick else (options.llm, options.images)
    if alone():
        rows = measure(int(options.threads), llm, images, options.rounds, options.quick)
    else:
        rows = at_threads(__file__, options.threads)
    report("sixteen", {"images": images, "rounds": options.rounds, "quick": options.quick}, rows, options.out)


if __name__ == "__main__":
    main()

"""Time alignment of all pairs of layers at once against a plain double loop, on the same features.

    python bench/align.py [--layers 41,33] [--samples 1024] [--widths 256,256] [--metrics mutual_knn,cka] [--plain 12]

The plain way repeats the whole computation for each pair of layers. Mutual k-NN has two plain ways: `sorted` sorts all
similarities of every sample and multiplies two N x N masks, as the released code does; `top-k` selects only the largest
similarities and intersects sets. A plain way is timed on `--plain` pairs spread over the grid, and its seconds are
multiplied by the number of pairs, because every pair costs it the same. This project's way is timed on all pairs,
`--rounds` times, alternating with the plain pairs. The values must agree to 1e-6. Seconds are medians of CPU time on
one thread; `smallest_speedup` compares this project's slowest round with the fastest plain pair. Writes
results/bench/align.json.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from harness import report, timed
from torch import Tensor

from mllm_eval.alignment.metrics import METRICS, normalised
from mllm_eval.environment import before_torch

COUNT = 10
GOAL = 100.0


def similarities(features: Tensor) -> Tensor:
    """The cosine similarities [N, N] of the features of a layer [N, D]."""
    vectors = normalised(features)
    return vectors @ vectors.T


def sorted_pair(x: Tensor, y: Tensor) -> float:
    """Mutual k-NN (0 to 1) of two layers [N, D], by sorting similarities and multiplying masks."""
    marked = []
    for features in (x, y):
        places = similarities(features).fill_diagonal_(-1e8).argsort(dim=1, descending=True)[:, :COUNT]
        marked.append(torch.zeros(len(x), len(x)).scatter_(1, places, 1.0))
    return float((marked[0] * marked[1]).sum(1).mean()) / COUNT


def top_pair(x: Tensor, y: Tensor) -> float:
    """Mutual k-NN (0 to 1) of two layers [N, D], by top-k and intersecting sets."""
    near = [similarities(one).fill_diagonal_(-1e8).topk(COUNT, dim=1).indices.tolist() for one in (x, y)]
    return sum(len(set(a) & set(b)) for a, b in zip(*near, strict=True)) / (COUNT * len(x))


def kernel_pair(x: Tensor, y: Tensor) -> float:
    """Linear CKA of two layers [N, D] by its definition: traces of products with the centring matrix."""
    a, b = (similarities(one.double()) for one in (x, y))
    centre = torch.eye(len(x), dtype=a.dtype) - 1 / len(x)
    a, b = centre @ a @ centre, centre @ b @ centre
    return float((a * b).sum() / ((a * a).sum() * (b * b).sum()).sqrt())


def unbiased_pair(x: Tensor, y: Tensor) -> float:
    """CKA of two layers [N, D] with the unbiased estimator of HSIC (Song et al. 2012, equation 5)."""
    a, b = (similarities(one.double()).fill_diagonal_(0) for one in (x, y))
    m = len(x)

    def hsic(k: Tensor, other: Tensor) -> Tensor:
        sums = k.sum() * other.sum() / ((m - 1) * (m - 2)) - 2 / (m - 2) * (k.sum(0) @ other.sum(1))
        return ((k * other.T).sum() + sums) / (m * (m - 3))

    return float(hsic(a, b) / (hsic(a, a) * hsic(b, b)).sqrt())


PLAIN: dict[str, dict[str, Callable[[Tensor, Tensor], float]]] = {
    "mutual_knn": {"sorted": sorted_pair, "top-k": top_pair},
    "cka": {"definition": kernel_pair},
    "unbiased_cka": {"definition": unbiased_pair},
}


def compare(metric: Any, x: Tensor, y: Tensor, plain: int, rounds: int) -> list[dict[str, Any]]:
    """One row per plain way of a metric. Both ways alternate, so that other load on the machine affects both.

    x, y: features [layers, N, D] of the encoder and the LLM. plain: number of pairs that the plain way is timed on.
    Raises AssertionError if values differ by 1e-6 or more.
    """
    every = len(x) * len(y)
    chosen = [divmod(at * every // plain, len(y)) for at in range(plain)]
    grid = METRICS[metric](x, y, COUNT)
    rows = []
    for name, one_pair in PLAIN[metric].items():
        values: dict[tuple[int, int], float] = {}

        def pair(at: tuple[int, int], one_pair: Any = one_pair, values: Any = values) -> None:
            values[at] = one_pair(x[at[0]], y[at[1]])

        slow, fast = [], []
        for turn in range(rounds):
            slow += [timed(lambda at=at: pair(at))["cpu_seconds"] for at in chosen[turn::rounds]]  # type: ignore[misc]
            fast.append(timed(lambda: METRICS[metric](x, y, COUNT))["cpu_seconds"])
        off = max(abs(value - float(grid[at])) for at, value in values.items())
        assert off < 1e-6, f"{metric}, {name}: values differ by {off}"
        whole = statistics.median(slow) * every
        speedup = whole / statistics.median(fast)
        rows.append(
            {"metric": metric, "plain_way": name, "widths": f"{x.shape[2]}, {y.shape[2]}",
             "plain_s_a_pair": statistics.median(slow), "plain_s": whole, "together_s": statistics.median(fast),
             "speedup": speedup, "smallest_speedup": min(slow) * every / max(fast), "largest_gap": off,
             "reached": speedup >= GOAL}
        )  # fmt: skip
    return rows


def main() -> None:
    """Run the timing, print the table, and write it to the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", default="41,33", help="of the encoder and the LLM")
    parser.add_argument("--samples", type=int, default=1024)
    parser.add_argument("--widths", default="256,256", help="of the encoder and the LLM; more pairs with semicolons")
    parser.add_argument("--metrics", default="mutual_knn,cka,unbiased_cka")
    parser.add_argument("--plain", type=int, default=12, help="pairs that the plain way is timed on")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="few layers and samples, to see that it runs")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    before_torch()
    torch.set_num_threads(1)
    layers = [3, 2] if options.quick else [int(part) for part in options.layers.split(",")]
    samples = 64 if options.quick else options.samples
    plain, rounds = (4, 1) if options.quick else (options.plain, options.rounds)
    rows = []
    for given in options.widths.split(";"):
        widths = [int(part) for part in given.split(",")]
        draw = torch.Generator().manual_seed(0)
        x, y = (torch.randn(count, samples, width, generator=draw) for count, width in zip(layers, widths, strict=True))
        for metric in options.metrics.split(","):
            rows += compare(metric, x, y, plain, rounds)
    settings = {"torch": torch.__version__, "threads": 1, "layers": f"{layers[0]} x {layers[1]}", "samples": samples,
                "plain_pairs": plain, "rounds": rounds}  # fmt: skip
    report("align", settings, rows, options.out)


if __name__ == "__main__":
    main()

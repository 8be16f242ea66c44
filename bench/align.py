"""Time all pairs of layers at once against the plain double loop, in the same run and on the same features.

    python bench/align.py [--layers 41,33] [--samples 1024] [--width 256] [--plain 8] [--quick]

The plain way asks for both sides' neighbours anew at every pair of layers and intersects them sample by sample, which
is how the measure is mostly written down. It is timed on `--plain` pairs, each costing it the same, and their values
are held to the product's to 1e-6. One thread. Writes results/bench/align.json.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from harness import report
from torch import Tensor

from mllm_eval.alignment.metrics import mutual_knn, normalised


def plain_pair(x: Tensor, y: Tensor, count: int) -> float:
    """Mutual k-NN of two layers [N, D], from the definition."""
    found = []
    for features in (x, y):
        vectors = normalised(features[None])[0]
        similar = vectors @ vectors.T
        similar.fill_diagonal_(-1e8)
        found.append(similar.topk(count, dim=1).indices.tolist())
    return sum(len(set(a) & set(b)) for a, b in zip(*found, strict=True)) / (count * len(x))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--layers", default="41,33", help="of the encoder and the LLM")
    parser.add_argument("--samples", type=int, default=1024)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--plain", type=int, default=8, help="pairs that the plain way is timed on")
    parser.add_argument("--quick", action="store_true", help="few layers and samples, to see that it runs")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    layers = [3, 2] if options.quick else [int(part) for part in options.layers.split(",")]
    samples = 64 if options.quick else options.samples
    draw = torch.Generator().manual_seed(0)
    x, y = (torch.randn(count, samples, options.width, generator=draw) for count in layers)
    start = time.process_time()
    grid = mutual_knn(x, y, 10)
    fast = time.process_time() - start
    pairs = [(at % layers[0], at % layers[1]) for at in range(min(options.plain, layers[0] * layers[1]))]
    start = time.process_time()
    values = [plain_pair(x[i], y[j], 10) for i, j in pairs]
    slow = (time.process_time() - start) / len(pairs) * layers[0] * layers[1]
    off = max(abs(value - float(grid[i, j])) for value, (i, j) in zip(values, pairs, strict=True))
    assert off < 1e-6, f"values differ by {off}"
    row = {"layers": layers, "samples": samples, "plain_cpu_seconds": slow, "cpu_seconds": fast, "speedup": slow / fast,
           "largest_of_noise": float(grid.max()), "chance_of_one_pair": 10 / (samples - 1)}  # fmt: skip
    report("align", {"torch": torch.__version__, "threads": 1, "plain_pairs": len(pairs)}, [row], options.out)


if __name__ == "__main__":
    main()

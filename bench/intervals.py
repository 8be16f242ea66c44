"""Time the statistics of a comparison at paper scale: confidence intervals, and optionally tests of all pairs.

    python bench/intervals.py                     20 encoders x 16 benchmarks x 10,000 bootstraps
    python bench/intervals.py --encoders 4 --pairs

Questions, images and groups are as many as in the sixteen benchmarks; the scores are random. Nothing is read or
written.
"""

from __future__ import annotations

import argparse
import os
import time
from itertools import combinations

import numpy as np

from mllm_eval import stats
from mllm_eval.stats import Estimator, Units

# Benchmark: number of questions, number of images, and how its value is computed from scores.
SIZES = {
    "mme": (2374, 1187, Estimator(100, 100, "sum")),
    "mmbench_en": (4329, 1164, Estimator(0, 100)),
    "gqa": (12578, 398, Estimator()),
    "seed": (14233, 14233, Estimator()),
    "scienceqa": (2017, 2017, Estimator()),
    "mmmu": (900, 900, Estimator()),
    "mathvista": (1000, 1000, Estimator()),
    "ai2d": (3088, 1000, Estimator()),
    "chartqa": (2500, 1509, Estimator()),
    "ocrbench": (1000, 1000, Estimator()),
    "textvqa": (5000, 3166, Estimator()),
    "docvqa": (5349, 1286, Estimator()),
    "mmvp": (300, 150, Estimator(0, 100)),
    "realworldqa": (765, 765, Estimator()),
    "cvbench_2d": (1438, 1438, Estimator(100, 0, "mean")),
    "cvbench_3d": (1200, 1200, Estimator()),
}


def units(name: str, seed: int) -> Units:
    """Random scores for all questions of a benchmark, summed per image."""
    questions, images, estimator = SIZES[name]
    rng = np.random.default_rng(seed)
    image = np.arange(questions) % images
    cluster = [f"{i:05d}" for i in image]
    strata = {"sum": 10, "mean": 2}.get(estimator.strata, 1)
    layer = [str(i % strata) for i in image]
    group = cluster if estimator.group else [str(i) for i in range(questions)]
    return stats.summed(estimator, (rng.random(questions) < 0.6).astype(float), cluster, group, layer)


def main() -> None:
    """Print wall and CPU seconds of each part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoders", type=int, default=20)
    parser.add_argument("--draws", type=int, default=stats.DRAWS)
    parser.add_argument("--pairs", action="store_true", help="also the paired tests of every two encoders")
    given = parser.parse_args()
    total = sum(size for size, _, _ in SIZES.values())
    print(f"{given.encoders} encoders x {len(SIZES)} benchmarks ({total:,} questions) x {given.draws:,} bootstraps")
    start, spent = time.perf_counter(), time.process_time()
    every = {name: [units(name, 97 * seed + 1) for seed in range(given.encoders)] for name in SIZES}
    _tell("sums of clusters", start, spent)
    start, spent = time.perf_counter(), time.process_time()
    draws = {name: stats.distribution(runs, given.draws, stats.seed_of(name)) for name, runs in every.items()}
    limits = [stats.value_interval(run, draws[name][i]) for name, runs in every.items() for i, run in enumerate(runs)]
    shares = {name: 100.0 / float(runs[0].weight.sum()) / len(every) for name, runs in every.items()}
    means = np.sum([draws[name] * share for name, share in shares.items()], axis=0)
    for i, one in enumerate(means):
        parts = [(runs[i], shares[name]) for name, runs in every.items()]
        value = sum(run.value * share for run, share in parts)
        limits.append(stats.widened(stats.interval(value, one), parts))
    _tell(f"{len(limits)} intervals", start, spent)
    if given.pairs:
        start, spent = time.perf_counter(), time.process_time()
        tested = 0
        for i, j in combinations(range(given.encoders), 2):
            for name, runs in every.items():
                stats.paired(runs[i], runs[j], stats.seed_of(name), draws[name][i] - draws[name][j])
                tested += 1
        _tell(f"{tested} paired tests", start, spent)


def _tell(what: str, start: float, spent: float) -> None:
    wall, cpu = time.perf_counter() - start, time.process_time() - spent
    print(f"{what:<22} {wall:7.1f} s   {cpu:7.1f} s of processor   {os.cpu_count()} cores")


if __name__ == "__main__":
    main()

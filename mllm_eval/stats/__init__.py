"""Statistics: arrays in, numbers out. Nothing here knows a benchmark, a run or a file."""

from __future__ import annotations

from mllm_eval.stats.bootstrap import DRAWS, Interval, distribution, interval, seed_of, value_interval
from mllm_eval.stats.estimator import Estimator, Units, summed
from mllm_eval.stats.significance import (
    FLIPS,
    Paired,
    above_chance,
    combined,
    effects,
    flipped,
    holm,
    mcnemar,
    paired,
    two_sided,
)

__all__ = [
    "DRAWS",
    "FLIPS",
    "Estimator",
    "Interval",
    "Paired",
    "Units",
    "above_chance",
    "combined",
    "distribution",
    "effects",
    "flipped",
    "holm",
    "interval",
    "mcnemar",
    "paired",
    "seed_of",
    "summed",
    "two_sided",
    "value_interval",
]

"""Statistics: functions from arrays to numbers, without any knowledge of benchmarks, runs or files."""

from __future__ import annotations

from mllm_eval.stats.bootstrap import (
    DRAWS,
    Interval,
    distribution,
    interval,
    satterthwaite,
    seed_of,
    t_ratio,
    value_interval,
    widened,
)
from mllm_eval.stats.estimator import Estimator, Units, summed
from mllm_eval.stats.power import detectable, paired_error, questions_needed, seed_power, seeds_needed
from mllm_eval.stats.scaling import Crossing, Fit, crossing, log_linear
from mllm_eval.stats.seeds import Scale, SeedGap, Seeds, gap_over_seeds, over_seeds
from mllm_eval.stats.significance import (
    FLIPS,
    Paired,
    above_chance,
    above_other,
    combined,
    effects,
    flipped,
    holm,
    mcnemar,
    paired,
    two_sided,
)
from mllm_eval.stats.subset import RankAgreement, agreement, clusters_needed, implied_error, part_of_table, stratified

__all__ = [
    "DRAWS",
    "FLIPS",
    "Crossing",
    "Estimator",
    "Fit",
    "Interval",
    "Paired",
    "RankAgreement",
    "Scale",
    "SeedGap",
    "Seeds",
    "Units",
    "above_chance",
    "above_other",
    "agreement",
    "clusters_needed",
    "combined",
    "crossing",
    "detectable",
    "distribution",
    "effects",
    "flipped",
    "gap_over_seeds",
    "holm",
    "implied_error",
    "interval",
    "log_linear",
    "mcnemar",
    "over_seeds",
    "paired",
    "paired_error",
    "part_of_table",
    "questions_needed",
    "satterthwaite",
    "seed_of",
    "seed_power",
    "seeds_needed",
    "stratified",
    "summed",
    "t_ratio",
    "two_sided",
    "value_interval",
    "widened",
]

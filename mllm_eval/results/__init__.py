"""Runs and published rows as data frames. Reads files only; computes nothing but categories and AVG."""

from __future__ import annotations

from mllm_eval.results.columns import AVERAGE, Columns, CountedAs, columns, strata
from mllm_eval.results.probes import Probe, read_probes
from mllm_eval.results.published import contradiction, published, values
from mllm_eval.results.runs import (
    RunRecord,
    given_answers,
    hold_to_known_rules,
    load_scores,
    read_run,
    reported,
    scored_rules,
    scored_variants,
    summaries,
)

__all__ = [
    "AVERAGE",
    "Columns",
    "CountedAs",
    "Probe",
    "RunRecord",
    "columns",
    "contradiction",
    "given_answers",
    "hold_to_known_rules",
    "load_scores",
    "published",
    "read_probes",
    "read_run",
    "reported",
    "scored_rules",
    "scored_variants",
    "strata",
    "summaries",
    "values",
]

"""Provide data, train, answer and score: every step makes only what is missing and keeps what exists.

Every finished step leaves a file that marks it as done. An interrupted flow resumes after its last finished step, and
a flow with nothing left to do loads no model.
"""

from __future__ import annotations

from mllm_eval.pipeline.completion import Selection, evaluate, evaluate_external
from mllm_eval.pipeline.flow import prepare_run, provide_benchmarks, provide_data, score_run, train_run
from mllm_eval.pipeline.probeflow import probe, provide_probes
from mllm_eval.pipeline.reporter import Reporter, Silent
from mllm_eval.pipeline.selection import shown_variants
from mllm_eval.progress import Progress

__all__ = [
    "Progress",
    "Reporter",
    "Selection",
    "Silent",
    "evaluate",
    "evaluate_external",
    "prepare_run",
    "probe",
    "provide_benchmarks",
    "provide_data",
    "provide_probes",
    "score_run",
    "shown_variants",
    "train_run",
]

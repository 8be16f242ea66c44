"""The one flow: what is missing of data, training, answers and scores is made, what is there is kept.

Every step leaves a file that says it is done, so a flow that was stopped anywhere goes on there, and one with
nothing to do loads no model.
"""

from __future__ import annotations

from mllm_eval.pipeline.evaluation import Selection, compare, evaluate, evaluate_external
from mllm_eval.pipeline.flow import provide_benchmarks, provide_data, score_run, table, train_run
from mllm_eval.pipeline.reporter import Progress, Reporter, Silent
from mllm_eval.pipeline.subset import shown_variants

__all__ = [
    "Progress",
    "Reporter",
    "Selection",
    "Silent",
    "compare",
    "evaluate",
    "evaluate_external",
    "provide_benchmarks",
    "provide_data",
    "score_run",
    "shown_variants",
    "table",
    "train_run",
]

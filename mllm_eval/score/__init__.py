"""Scores: parse, rules, aggregate. Nothing model-sized is imported here.

The package can be called, as `mllm_eval.score("chartqa", {"0": "yellow"})`: that is `frames.score`.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from mllm_eval.score.scorer import Scorer, load_scorer, protocol, protocol_hash
from mllm_eval.score.scoring import Score, Summary, count_empty, score_samples, summarize

__all__ = [
    "Score",
    "Scorer",
    "Summary",
    "count_empty",
    "load_scorer",
    "protocol",
    "protocol_hash",
    "score_samples",
    "summarize",
]


class _Callable(ModuleType):
    """Python binds the name of a package in the one above; calling it is what lets a function have that name, too."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        from mllm_eval.score.frames import score

        return score(*args, **options)


sys.modules[__name__].__class__ = _Callable

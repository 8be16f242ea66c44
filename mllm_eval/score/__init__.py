"""Scoring: parses answers, applies rule sets, and aggregates. It imports nothing that loads a model.

The package itself can be called: `mllm_eval.score("chartqa", {"0": "yellow"})` calls `frames.score`.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from mllm_eval.score.scorer import ScorerModule, load_scorer, protocol, protocol_hash
from mllm_eval.score.scoring import Score, Summary, count_empty, score_samples, summarize

__all__ = [
    "Score",
    "ScorerModule",
    "Summary",
    "count_empty",
    "load_scorer",
    "protocol",
    "protocol_hash",
    "score_samples",
    "summarize",
]


class _Callable(ModuleType):
    """Makes the package callable. Python binds a package's name in its parent, which hides a function of that name."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        from mllm_eval.score.frames import score

        return score(*args, **options)


sys.modules[__name__].__class__ = _Callable

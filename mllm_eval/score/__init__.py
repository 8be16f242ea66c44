"""Scores: parse, rules, aggregate. Nothing model-sized is imported here."""

from __future__ import annotations

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

"""Greedy answers of one model to many samples. torch is loaded when something is answered, not before."""

from __future__ import annotations

from mllm_eval.generate.answering import answer, pending, shared_answers
from mllm_eval.generate.batching import Limits

__all__ = ["Limits", "answer", "pending", "shared_answers"]

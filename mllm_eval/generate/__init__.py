"""Greedy answers of one model to many samples. torch is loaded when something is answered, not before."""

from __future__ import annotations

from mllm_eval.generate.answering import answer, answer_many
from mllm_eval.generate.asking import Asked, is_open, pending, shared_answers, together
from mllm_eval.generate.batching import Limits

__all__ = ["Asked", "Limits", "answer", "answer_many", "is_open", "pending", "shared_answers", "together"]

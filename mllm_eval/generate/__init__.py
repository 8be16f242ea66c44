"""Greedy decoding of many requests by any backend. torch is imported only when a request is answered."""

from __future__ import annotations

from mllm_eval.generate.backend import Backend, Batch
from mllm_eval.generate.batching import Limits
from mllm_eval.generate.request import ChatFormat, PromptFormat, Request, TemplateFormat
from mllm_eval.generate.runner import Hooks, answer_tasks
from mllm_eval.generate.task import Task, answers_by_key, group_by_images

__all__ = [
    "Backend",
    "Batch",
    "ChatFormat",
    "Hooks",
    "Limits",
    "PromptFormat",
    "Request",
    "Task",
    "TemplateFormat",
    "answer_tasks",
    "answers_by_key",
    "group_by_images",
]

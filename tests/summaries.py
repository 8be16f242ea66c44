"""The numbers of a file of answers, for tests that ask for nothing else of it."""

from __future__ import annotations

from typing import Any

from mllm_eval.score import files
from mllm_eval.score.scoring import Summary


def score_file(benchmark: str, *given: Any, **options: Any) -> Summary:
    """The summary of `mllm_eval.score.files.score_file`, called with the same."""
    return files.score_file(benchmark, *given, **options).summary

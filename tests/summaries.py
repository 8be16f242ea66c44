"""The numbers of a file of answers, for tests that ask for nothing else of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mllm_eval.score import files
from mllm_eval.score.scoring import Summary


def score_file(
    benchmark: str,
    answers: Path,
    rules: str = "cambrian",
    out: Path | None = None,
    as_json: bool = False,
    **options: Any,
) -> Summary:
    """The summary of `mllm_eval.score.files.score_file`, its options given one by one."""
    layout = {"layout": options.pop("format_")} if "format_" in options else {}
    chosen = files.ScoringOptions(rules, **layout, **options)
    return files.score_file(benchmark, answers, chosen, out, as_json).summary

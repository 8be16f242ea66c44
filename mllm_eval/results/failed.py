"""Samples without an answer: which they are and why, and how many a benchmark's number may lack."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mllm_eval.answers import read_answers
from mllm_eval.catalog.variant import parse_stem
from mllm_eval.errors import UserError

VARIABLE = "MLLM_EVAL_FAILED"
# Of a benchmark's samples; with more, its number is one of other questions.
SHARE = 0.001


class Failed(NamedTuple):
    """A sample that has no answer."""

    benchmark: str
    variant: str
    id: str
    reason: str


def failed_samples(answers: Path) -> Iterator[Failed]:
    """Those of a run's folder of finished answers, by file. Raises UserError for a line that is no answer."""
    for path in sorted(answers.glob("*.jsonl")):
        benchmark, variant = parse_stem(path.stem)
        for one in read_answers(path):
            if one.state != "ok":
                yield Failed(benchmark, str(variant), one.id, one.reason)


def allowed_share() -> float:
    """The share of a benchmark's samples that may have failed: $MLLM_EVAL_FAILED, such as `0.5%` or 0.005, else 0.1 %.

    Raises UserError for what is no share.
    """
    said = os.environ.get(VARIABLE, "").strip()
    if not said:
        return SHARE
    try:
        share = float(said.removesuffix("%")) / (100 if said.endswith("%") else 1)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise UserError(f"{VARIABLE}: {said!r} is no share of samples; write 0.5% or 0.005")
    return share


def too_many_failed(summary: Mapping[str, Any]) -> int:
    """How many samples of a summary failed, where that is more than may; else 0."""
    failed, n = int(summary["n_failed"]), int(summary["n"])
    return failed if failed > allowed_share() * n else 0

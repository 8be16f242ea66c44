"""List failed samples with their reasons, and limit how many of a benchmark's samples may have failed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mllm_eval.answers import read_answers
from mllm_eval.catalog.variant import parse_stem
from mllm_eval.errors import UserError

VARIABLE = "MLLM_EVAL_FAILED"
# Allowed share of failed samples. With more, the score would describe another set of questions.
SHARE = 0.001


class Failed(NamedTuple):
    """A sample without an answer, and the reason."""

    benchmark: str
    variant: str
    id: str
    reason: str


def failed_samples(answers: Path) -> Iterator[Failed]:
    """Yield the failed samples in a run's folder of finished answers, sorted by file.

    Raises UserError for a line that is no answer.
    """
    for path in sorted(answers.glob("*.jsonl")):
        benchmark, variant = parse_stem(path.stem)
        for one in read_answers(path):
            if one.state != "ok":
                yield Failed(benchmark, str(variant), one.id, one.reason)


def allowed_share() -> float:
    """Return the share, in [0, 1], of a benchmark's samples that may have failed.

    This is $MLLM_EVAL_FAILED, e.g. `0.5%` or `0.005`; by default 0.001. Raises UserError for another value.
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
    """Return the number of a summary's failed samples if it exceeds the allowed share; else 0."""
    failed, n = int(summary["n_failed"]), int(summary["n"])
    return failed if failed > allowed_share() * n else 0

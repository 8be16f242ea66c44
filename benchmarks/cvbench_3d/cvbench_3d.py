"""CV-Bench 3D: depth and distance, pooled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mllm_eval.metrics.choices import option_score
from mllm_eval.metrics.letters import LETTERS, letter_score
from mllm_eval.metrics.metric import metric
from mllm_eval.metrics.tally import Rows, mean, of_source

NEEDS = {"choices": "list<string>", "answer": "string"}


def cambrian(record: Mapping[str, Any], prediction: str) -> tuple[float, str | None, str]:
    """The first character; it may also be the gold option's text, if that is one character in lower case."""
    gold = record["answer"].lower()[1]
    score, letter, note = letter_score(prediction, gold, LETTERS[: len(record["choices"])])
    text = record["choices"][ord(gold) - ord("a")]
    again = len(text) <= 1 and letter_score(prediction, text, "")[0]
    return float(score or again), letter, note


def robust(record: Mapping[str, Any], prediction: str) -> tuple[float, str | None, str]:
    """A standalone offered letter or the text of one option."""
    return option_score(prediction, record["choices"], record["answer"].strip("() ").upper())


def guess(record: Mapping[str, Any]) -> float:
    """Share of blind guesses that are right."""
    return 1.0 / len(record["choices"])


def report(rules: str, rows: Rows) -> dict[str, Any]:
    """{omni: {accuracy, ...}, CV-Bench-3D (percent)}."""
    return {"omni": of_source(rows), "CV-Bench-3D": 100.0 * mean(rows)}


RULES = {"cambrian": cambrian, "robust": robust}
Metric = metric(__doc__ or "", {**NEEDS, "task": "string|null"}, RULES, report)

"""GQA: the whole answer is the gold word or phrase."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mllm_eval.metrics.metric import metric
from mllm_eval.metrics.plain import final, plain, words, yes_or_no
from mllm_eval.metrics.tally import Rows, accuracy

NEEDS = {"answer": "string"}


def cambrian(record: Mapping[str, Any], prediction: str) -> tuple[float, str | None, str]:
    """Equal but for case and trailing periods."""
    said = prediction.strip().lower().rstrip(".")
    return float(said == record["answer"].lower()), said or None, ""


def robust(record: Mapping[str, Any], prediction: str) -> tuple[float, str | None, str]:
    """Equal words after the last "answer is", without articles and punctuation; yes and no as for MME."""
    if record["answer"].lower() in ("yes", "no"):
        verdict = yes_or_no(prediction)
        return float(verdict == record["answer"].lower()), verdict, "" if verdict else "neither yes nor no"
    said = " ".join(words(final(plain(prediction))))
    return float(said == " ".join(words(plain(record["answer"])))), said or None, ""


def guess(record: Mapping[str, Any]) -> float:
    """Share of blind guesses that are right: of yes and no, half."""
    return 0.5 if record["answer"].lower() in ("yes", "no") else 0.0


def report(rules: str, rows: Rows) -> dict[str, Any]:
    """{total, correct, accuracy}."""
    return accuracy(rows)


RULES = {"cambrian": cambrian, "robust": robust}
Metric = metric(__doc__ or "", NEEDS, RULES, report)

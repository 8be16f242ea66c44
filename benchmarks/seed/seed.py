"""SEED-Bench (image): four options, nine question types, single images only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mllm_eval.metrics.choices import option_score
from mllm_eval.metrics.letters import letter_score
from mllm_eval.metrics.metric import metric
from mllm_eval.metrics.tally import Rows, by_category

NEEDS = {"question_type_id": "int64", "answer": "string"}
TYPES = {
    **{1: "Scene Understanding", 2: "Instance Identity", 3: "Instance Attribute", 4: "Instance Location"},
    **{5: "Instance Counting", 6: "Spatial Relation", 7: "Instance Interaction", 8: "Visual Reasoning"},
    9: "Text Recognition",
}


def cambrian(record: Mapping[str, Any], prediction: str) -> tuple[float, str | None, str]:
    """The first character of what follows the last keyword; the original crashes on a type that it does not know."""
    if record["question_type_id"] not in TYPES:
        return 0.0, None, f"the original crashes here: question type {record['question_type_id']}"
    return letter_score(prediction, record["answer"].lower(), "abcd", ".")


def robust(record: Mapping[str, Any], prediction: str) -> tuple[float, str | None, str]:
    """A standalone offered letter or the text of one option."""
    texts = [record.get(f"choice_{letter}") or "" for letter in "abcd"]
    return option_score(prediction, texts, record["answer"].upper())


def guess(record: Mapping[str, Any]) -> float:
    """Share of blind guesses that are right."""
    return 0.25


def report(rules: str, rows: Rows) -> dict[str, Any]:
    """Accuracy over all questions and of each type; types other than the nine of images are left out."""
    word = "accurcay" if rules == "cambrian" else "accuracy"
    rows = [(row, score) for row, score in rows if row["question_type_id"] in TYPES]
    return by_category(rows, lambda row: TYPES[row["question_type_id"]], word)


RULES = {"cambrian": cambrian, "robust": robust}
TEXTS = {f"choice_{letter}": "string|null" for letter in "abcd"}
Metric = metric(__doc__ or "", {**NEEDS, **TEXTS}, RULES, report)

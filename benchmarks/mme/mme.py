"""MME: yes or no, two questions an image; perception is the sum of ten categories' 100 (acc + acc+)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mllm_eval.metrics.metric import metric
from mllm_eval.metrics.plain import yes_or_no
from mllm_eval.metrics.tally import Rows, in_groups, mean

NEEDS = {"question_id": "string", "category": "string", "answer": "string"}
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
PERCEPTION = (
    *("existence", "count", "position", "color", "posters"),
    *("celebrity", "scene", "landmark", "artwork", "OCR"),
)


def cambrian(record: Mapping[str, Any], prediction: str) -> tuple[float, str | None, str]:
    """The whole answer but trailing periods is yes or no."""
    said = prediction.strip().lower().rstrip(".")
    note = "" if record["category"] in PERCEPTION + COGNITION else f"unknown category {record['category']!r}"
    return float(said == record["answer"].lower()), said if said in ("yes", "no") else None, note


def robust(record: Mapping[str, Any], prediction: str) -> tuple[float, str | None, str]:
    """The opening yes or no, else the only one that occurs."""
    said = yes_or_no(prediction)
    return float(said == record["answer"].lower()), said, "" if said else "neither yes nor no"


def group(record: Mapping[str, Any]) -> tuple[str, int]:
    """The image, which has two questions."""
    return f"{record['category']}/{record['question_id']}", 2


def chance(records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Coin flips: of each category half of the questions and a quarter of the images."""
    found = {record["category"] for record in records}
    perception, cognition = (75.0 * len(found.intersection(names)) for names in (PERCEPTION, COGNITION))
    return {"Perception": perception, "Cognition": cognition, "total_score": perception + cognition}


def report(rules: str, rows: Rows) -> dict[str, Any]:
    """Per category {acc_score, acc_plus_score, score, size}; acc+ is the share of images with both right."""
    parts: dict[str, list[tuple[Mapping[str, Any], float]]] = {}
    for row, score in rows:
        parts.setdefault(row["category"], []).append((row, score))
    categories = {}
    for name, part in parts.items():
        pairs = in_groups(part, lambda row: row["question_id"])
        both = sum(2.0 for pair in pairs.values() if len(pair) == 2 and min(pair) == 1.0)
        one, two = 100.0 * mean(part), 100.0 * both / len(part)
        categories[name] = {
            **{"acc_score": one, "acc_plus_score": two, "score": one + two},
            "size": float(len(part)),
        }
    perception, cognition = (
        sum((c["score"] for name, c in categories.items() if name in names), 0.0) for names in (PERCEPTION, COGNITION)
    )
    top = {"total_score": perception + cognition, "accuracy": 100.0 * mean(rows)}
    return {**top, "Perception": perception, "Cognition": cognition, **categories}


RULES = {"cambrian": cambrian, "robust": robust}
Metric = metric(__doc__ or "", NEEDS, RULES, report, group)

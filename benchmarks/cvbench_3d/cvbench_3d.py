"""CV-Bench 3D: depth and distance, pooled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .choices import choose
from .letters import letter_score
from .metric import metric
from .plain import plain
from .tally import Rows, by_category

NEEDS = {"choices": "list<string>", "answer": "string"}


def cambrian(record: Mapping[str, Any], prediction: str) -> tuple[float, str | None, str]:
    """The first character; it may also be the gold option's text, if that is one character in lower case."""
    gold = record["answer"].lower()[1]
    score, letter, note = letter_score(prediction, gold, len(record["choices"]))
    text = record["choices"][ord(gold) - ord("a")]
    again = len(text) <= 1 and letter_score(prediction, text, 0)[0]
    return float(score or again), letter, note


def robust(record: Mapping[str, Any], prediction: str) -> tuple[float, str | None, str]:
    """A standalone offered letter or the text of one option."""
    said = choose(plain(prediction), record["choices"])
    gold = record["answer"].strip().strip("()").upper()
    return float(said == gold), said, "" if said else "no single option"


def guess(record: Mapping[str, Any]) -> float:
    """Share of blind guesses that are right."""
    return 1.0 / len(record["choices"])


def report(rules: str, rows: Rows) -> dict[str, Any]:
    """{omni: {accuracy, ...}, CV-Bench-3D (percent)}."""
    tally = by_category(rows, lambda row: row.get("task") or "")
    share = tally.pop("accuracy")
    tally.pop("total_count")
    top = {"accuracy": share, "total_count": len(rows), "tabulated_x100": 100.0 * share}
    return {"omni": {**top, "per_category": tally}, "CV-Bench-3D": 100.0 * share}


RULES = {"cambrian": cambrian, "robust": robust}
Metric = metric(__doc__ or "", {**NEEDS, "task": "string|null"}, RULES, report)

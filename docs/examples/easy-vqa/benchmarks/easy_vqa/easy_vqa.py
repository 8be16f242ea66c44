"""easy-VQA: the answer is one word out of thirteen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

NEEDS = {"answer": "string"}
SHAPES = ("circle", "rectangle", "triangle")
COLOURS = 8


def exact(record: Mapping[str, Any], prediction: str) -> tuple[float, str | None, str]:
    """Equal but for case and a trailing period, as the paper's code compares GQA's answers."""
    said = prediction.strip().lower().rstrip(".")
    return float(said == record["answer"].lower()), said or None, ""


def guess(record: Mapping[str, Any]) -> float:
    """Share of blind guesses that are right, among the answers of that kind."""
    if record["answer"] in ("yes", "no"):
        return 1 / 2
    return 1 / len(SHAPES) if record["answer"] in SHAPES else 1 / COLOURS


def report(rules: str, rows: Sequence[tuple[Mapping[str, Any], float]]) -> dict[str, Any]:
    """Accuracy in percent: of all, of yes-or-no questions, of the others."""
    told = [score for record, score in rows if record["answer"] in ("yes", "no")]
    named = [score for record, score in rows if record["answer"] not in ("yes", "no")]
    parts = {"accuracy": [score for _, score in rows], "yes_or_no": told, "named": named}
    return {name: 100 * sum(part) / len(part) for name, part in parts.items() if part}


RULES = {"cambrian": exact}

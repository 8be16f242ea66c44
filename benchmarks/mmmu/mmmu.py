"""MMMU (validation): multiple choice and open questions of 30 subjects."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

from mllm_eval.metrics.choices import option_score
from mllm_eval.metrics.letters import after_keyword, first_letter
from mllm_eval.metrics.metric import metric
from mllm_eval.metrics.plain import final, plain, words
from mllm_eval.metrics.quantities import agrees, python_number
from mllm_eval.metrics.tally import Rows, by_category

NEEDS = {"id": "string", "question_type": "string", "options": "string", "answer": "string"}


def listed(text: str) -> list[str]:
    """The texts of a list written as Python; a text that is no list stands for itself."""
    try:
        value = ast.literal_eval(text) if text.lstrip().startswith("[") else text
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        value = text
    return [str(part) for part in value] if isinstance(value, list) else [text]


def cambrian(record: Mapping[str, Any], prediction: str) -> tuple[float, str | None, str]:
    """First character (choice) or whole answer (open); numbers within 5 % of the *answer*, inf included."""
    choice = record["question_type"] == "multiple-choice"
    said = first_letter(prediction) if choice else after_keyword(prediction).rstrip(".")
    gold = record["answer"].lower()
    value, wanted = python_number(said), python_number(gold)
    near = value is not None and wanted is not None and abs(wanted - value) <= abs(value) * 0.05
    known = not choice or (said.isascii() and said.isalpha())
    return float(said == gold or near), (said or None) if known else None, "" if known else "no letter"


def robust(record: Mapping[str, Any], prediction: str) -> tuple[float, str | None, str]:
    """The option that is named, options truly parsed; an open answer may equal any of the listed golds."""
    if record["question_type"] == "multiple-choice":
        return option_score(prediction, listed(record["options"]), record["answer"])
    answer = final(plain(prediction))
    asked, right = record.get("question") or "", False
    for gold in map(plain, [record["answer"], *listed(record["answer"])]):
        right = right or agrees(answer, gold, asked)[0] or words(answer) == words(gold)
    return float(right), answer or None, ""


def guess(record: Mapping[str, Any]) -> float:
    """Share of blind guesses that are right."""
    return 1.0 / len(listed(record["options"])) if record["question_type"] == "multiple-choice" else 0.0


def report(rules: str, rows: Rows) -> dict[str, Any]:
    """Accuracy over all and by subject; cambrian cuts the subject at its first underscore."""
    if rules == "cambrian":
        return by_category(rows, lambda row: row["id"].split("_")[1])
    return by_category(rows, lambda row: "_".join(row["id"].split("_")[1:-1]))


RULES = {"cambrian": cambrian, "robust": robust}
Metric = metric(__doc__ or "", {**NEEDS, "question": "string|null"}, RULES, report)

"""MMBench-EN: asked once per rotation of the options; a question counts when all rotations are right."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from mllm_eval.metrics.choices import option_score
from mllm_eval.metrics.letters import letter_score
from mllm_eval.metrics.metric import metric
from mllm_eval.metrics.tally import Rows, by_category, in_groups, mean

TEXT = "string|null"
NEEDS = {"index": "int64", "A": TEXT, "B": TEXT, "C": TEXT, "D": TEXT, "answer": TEXT, "category": "string?"}


def letters(record: Mapping[str, Any]) -> str:
    """The letters of the options that are there; upstream writes a missing one as the string "nan"."""
    return "".join(letter for letter in "ABCD" if record[letter] not in (None, "nan"))


def cambrian(record: Mapping[str, Any], prediction: str) -> tuple[float, str | None, str]:
    """The first character of what follows the last keyword."""
    if not record["answer"]:
        return 0.0, None, "no gold answer: not counted"
    return letter_score(prediction, record["answer"].lower(), letters(record).lower())


def robust(record: Mapping[str, Any], prediction: str) -> tuple[float, str | None, str]:
    """A standalone offered letter or the text of one option."""
    if not record["answer"]:
        return 0.0, None, "no gold answer: not counted"
    offered = letters(record)
    return option_score(prediction, [record[letter] for letter in offered], record["answer"], offered)


def group(record: Mapping[str, Any]) -> tuple[str, int]:
    """The question without its rotation, which stands in the millions; one rotation for each option."""
    return str(record["index"] % 1_000_000), len(letters(record))


def guess(record: Mapping[str, Any]) -> float:
    """Share of blind guesses that are right."""
    return 1.0 / max(1, len(letters(record)))


def chance(records: Sequence[Mapping[str, Any]]) -> float:
    """Circular accuracy of blind guesses, in percent."""
    groups = in_groups([(record, guess(record)) for record in records], lambda row: group(row)[0])
    return 100.0 * sum(math.prod(shares) for shares in groups.values()) / len(groups)


def report(rules: str, rows: Rows) -> dict[str, Any]:
    """Row and circular accuracy, of all and of each category."""
    word = "accurcay" if rules == "cambrian" else "accuracy"
    rows = [(row, score) for row, score in rows if row["answer"]]
    out = by_category(rows, lambda row: row.get("category") or "", word)
    passed: dict[str, list[float]] = {}
    for (category, _), scores in in_groups(rows, lambda row: (row.get("category") or "", group(row)[0])).items():
        passed.setdefault(category, []).append(min(scores))
    flat: Rows = [({}, score) for scores in passed.values() for score in scores]
    for category, scores in passed.items():
        out[category] |= {"circular_accuracy": sum(scores) / len(scores), "circular_count": len(scores)}
    circular = {"circular_accuracy": mean(flat), "circular_count": float(len(flat))}
    return {"accuracy": out.pop("accuracy"), "total_count": out.pop("total_count"), **circular, **out}


RULES = {"cambrian": cambrian, "robust": robust}
Metric = metric(__doc__ or "", NEEDS, RULES, report, group)

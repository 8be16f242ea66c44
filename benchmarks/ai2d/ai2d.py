"""AI2D: four options, the gold is an index."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mllm_eval.metrics.choices import choose
from mllm_eval.metrics.letters import first_letter
from mllm_eval.metrics.metric import metric
from mllm_eval.metrics.tally import Rows, accuracy

NEEDS = {"options": "list<string>", "answer": "string"}
INDEX = dict(zip("abcd", "0123", strict=True))


def cambrian(record: Mapping[str, Any], prediction: str) -> tuple[float, str | None, str]:
    """The first character of what follows the last keyword; a-d are 0-3, and a digit is an index, too."""
    said = first_letter(prediction)
    index = INDEX.get(said, said)
    known = index in INDEX.values()
    letter = "ABCD"[int(index)] if known else None
    return float(index == record["answer"].lower()), letter, "" if known else "no offered letter"


def robust(record: Mapping[str, Any], prediction: str) -> tuple[float, str | None, str]:
    """A standalone offered letter or the text of one option; a digit is an option's text or nothing."""
    said = choose(prediction, record["options"])
    index = str(ord(said) - ord("A")) if said else None
    return float(index == record["answer"].strip()), said, "" if said else "no single option"


def guess(record: Mapping[str, Any]) -> float:
    """Share of blind guesses that are right."""
    return 1.0 / len(record["options"])


def report(rules: str, rows: Rows) -> dict[str, Any]:
    """{total, correct, accuracy}."""
    return accuracy(rows)


RULES = {"cambrian": cambrian, "robust": robust}
Metric = metric(__doc__ or "", NEEDS, RULES, report)

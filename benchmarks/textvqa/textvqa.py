"""TextVQA: soft accuracy against ten answers, each annotator left out in turn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from mllm_eval.metrics.metric import metric
from mllm_eval.metrics.plain import final, plain
from mllm_eval.metrics.tally import Rows, mean

from .m4c import normal

NEEDS = {"answers": "list<string>"}


def soft(count: int, n: int) -> float:
    """Mean over n annotators of min(1, matches among the others / 3), for an answer of `count` of them."""
    mine, other = min(1.0, float(count - 1) / 3), min(1.0, float(count) / 3)
    return sum([mine] * count + [other] * (n - count)) / n


def cambrian(record: Mapping[str, Any], prediction: str) -> tuple[float, str | None, str]:
    """After the M4C normaliser, faults included: an answer "a" is empty, as is the prediction "."."""
    if len(record["answers"]) != 10:
        return 0.0, None, f"the original crashes here: {len(record['answers'])} gold answers, not 10"
    said, count = normal(prediction.strip()), 0
    for answer in map(normal, record["answers"]):
        count += answer == said
    return soft(count, 10) if count else 0.0, said[:200] or None, ""


def robust(record: Mapping[str, Any], prediction: str) -> tuple[float, str | None, str]:
    """The normaliser mended, on what follows the last "answer is"; any number of annotators."""
    said = normal(final(plain(prediction)), mended=True)
    counts = Counter(normal(plain(answer), mended=True) for answer in record["answers"])
    count = counts.get(said, 0) if said else 0
    return soft(count, counts.total()) if count else 0.0, said[:200] or None, ""


def report(rules: str, rows: Rows) -> dict[str, Any]:
    """{accuracy}, the mean in percent."""
    return {"accuracy": 100.0 * mean(rows)}


RULES = {"cambrian": cambrian, "robust": robust}
Metric = metric(__doc__ or "", NEEDS, RULES, report)

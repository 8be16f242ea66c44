"""CV-Bench 2D: count and relation; the mean of the accuracies on ADE20K and on COCO."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mllm_eval.metrics.choices import option_score
from mllm_eval.metrics.letters import LETTERS, letter_score
from mllm_eval.metrics.metric import metric
from mllm_eval.metrics.tally import Rows, mean, of_source

NEEDS = {"choices": "list<string>", "answer": "string", "source": "string"}
NAMES = {"ADE20K": "ade", "COCO": "coco"}


def cambrian(record: Mapping[str, Any], prediction: str) -> tuple[float, str | None, str]:
    """The first character of what follows the last keyword."""
    return letter_score(prediction, record["answer"].lower()[1], LETTERS[: len(record["choices"])], ".")


def robust(record: Mapping[str, Any], prediction: str) -> tuple[float, str | None, str]:
    """A standalone offered letter or the text of one option."""
    return option_score(prediction, record["choices"], record["answer"].strip("() ").upper())


def guess(record: Mapping[str, Any]) -> float:
    """Share of blind guesses that are right."""
    return 1.0 / len(record["choices"])


def report(rules: str, rows: Rows) -> dict[str, Any]:
    """{ade, coco, CV-Bench-2D (percent, mean of the sources), pooled (percent)}."""
    sources: dict[str, list[tuple[Mapping[str, Any], float]]] = {}
    for row, score in rows:
        sources.setdefault(row["source"], []).append((row, score))
    out: dict[str, Any] = {NAMES.get(source, source): of_source(part) for source, part in sources.items()}
    shares = [part["accuracy"] for part in out.values()]
    out["CV-Bench-2D"] = 100.0 * sum(shares) / len(shares) if shares else 0.0
    return {**out, "pooled": 100.0 * mean(rows)}


RULES = {"cambrian": cambrian, "robust": robust}
Metric = metric(__doc__ or "", {**NEEDS, "task": "string|null"}, RULES, report)

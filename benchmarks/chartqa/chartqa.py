"""ChartQA: relaxed accuracy, 5 % for numbers, both halves of the test set pooled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mllm_eval.metrics.metric import metric
from mllm_eval.metrics.plain import final, plain, words, yes_or_no
from mllm_eval.metrics.quantities import agrees, is_quantity, number, python_number
from mllm_eval.metrics.tally import Rows, accuracy

NEEDS = {"answer": "string", "type": "string?"}


def cambrian(record: Mapping[str, Any], prediction: str) -> tuple[float, str | None, str]:
    """Two numbers within 5 % of the gold, else equal but for case."""
    said, gold = prediction.strip().lower(), record["answer"].lower()
    value, wanted = python_number(said), python_number(gold)
    if value is not None and wanted is not None:
        return float(abs(value - wanted) <= abs(wanted) * 0.05), said, ""
    return float(said == gold), said or None, ""


def robust(record: Mapping[str, Any], prediction: str) -> tuple[float, str | None, str]:
    """A number within 5 % of the gold, whatever its signs, percent or fraction; years exactly; else equal words."""
    gold, answer = plain(record["answer"]), final(plain(prediction))
    if gold.lower() in ("yes", "no"):
        verdict = yes_or_no(answer)
        return float(verdict == gold.lower()), verdict, "" if verdict else "neither yes nor no"
    wanted = number(gold) if is_quantity(gold) else None
    if wanted is None or gold.endswith("+"):
        said = sorted(words(answer)) if gold.startswith("[") else words(answer)
        kept = [word for word in said if word != "and"] if gold.startswith("[") else said
        right = sorted(words(gold)) if gold.startswith("[") else words(gold)
        return float(kept == right), answer or None, ""
    fits, value = agrees(answer, gold, record.get("question") or "")
    return float(fits), None if value is None else f"{value:g}", "" if value is not None else "no single number"


def guess(record: Mapping[str, Any]) -> float:
    """Share of blind guesses that are right: of yes and no, half."""
    return 0.5 if record["answer"].lower() in ("yes", "no") else 0.0


def report(rules: str, rows: Rows) -> dict[str, Any]:
    """{total, correct, accuracy} pooled; under robust the accuracy of each half, too."""
    halves = sorted({str(row.get("type")) for row, _ in rows}) if rules == "robust" else []
    parts = {half: [(row, score) for row, score in rows if str(row.get("type")) == half] for half in halves}
    return {**accuracy(rows), **{half: accuracy(part)["accuracy"] for half, part in parts.items()}}


RULES = {"cambrian": cambrian, "robust": robust}
Metric = metric(__doc__ or "", {**NEEDS, "question": "string|null"}, RULES, report)

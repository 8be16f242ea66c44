"""MathVista (testmini): multiple choice and free numbers, scored without a judge."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mllm_eval.metrics.choices import choose
from mllm_eval.metrics.metric import metric
from mllm_eval.metrics.plain import final, plain, words
from mllm_eval.metrics.quantities import agrees, number, python_number
from mllm_eval.metrics.tally import Rows, by_category

NEEDS = {"question_type": "string", "answer": "string", "choices": "list<string>|null"}


def cambrian(record: Mapping[str, Any], prediction: str) -> tuple[float, str | None, str]:
    """The whole answer is the gold (a letter or a text), or within 5 % of the *answer* (inf fits all)."""
    said, gold = prediction.lower().strip(), record["answer"]
    if record["question_type"] == "multi_choice":
        gold = {text: chr(ord("A") + i) for i, text in enumerate(record["choices"])}[gold]
    gold = gold.lower()
    value, wanted = python_number(said), python_number(gold)
    near = value is not None and wanted is not None and abs(wanted - value) <= abs(value) * 0.05
    return float(said == gold or near), said or None, ""


def robust(record: Mapping[str, Any], prediction: str) -> tuple[float, str | None, str]:
    """The option that the final answer names; a number within 5 % of the gold, years exactly; else equal words."""
    gold, answer = record["answer"], plain(prediction)
    if record["question_type"] == "multi_choice":
        said = choose(prediction, record["choices"])
        text = record["choices"][ord(said) - ord("A")] if said else None
        # A text that two choices share names no letter, but it is right all the same.
        twice = not said and record["choices"].count(gold) > 1 and words(final(answer)) == words(plain(gold))
        note = "" if said or twice else "no single option"
        return float(text == gold or twice), gold if twice else said, note
    gold, last = plain(gold), final(answer)
    if number(gold) is not None:
        right, value = agrees(last, gold, record.get("query") or record.get("question") or "")
        return float(right), None if value is None else f"{value:g}", "" if value is not None else "no single number"
    # A list's last comma may be an "and".
    said_words = [word for word in words(last) if word != "and" or not gold.startswith("[")]
    return float(said_words == words(gold)), " ".join(said_words) or None, ""


def category(record: Mapping[str, Any]) -> str:
    """general-vqa or math-targeted-vqa; upstream keeps it in the metadata."""
    return str((record.get("metadata") or {}).get("category") or record.get("category") or "")


def guess(record: Mapping[str, Any]) -> float:
    """Share of blind guesses that are right."""
    return 1.0 / len(record["choices"]) if record["question_type"] == "multi_choice" else 0.0


def report(rules: str, rows: Rows) -> dict[str, Any]:
    """Accuracy over all questions and of the two categories."""
    return by_category(rows, category, "accurcay" if rules == "cambrian" else "accuracy")


RULES = {"cambrian": cambrian, "robust": robust}
Metric = metric(__doc__ or "", {**NEEDS, "category": "string|null", "query": "string|null"}, RULES, report)

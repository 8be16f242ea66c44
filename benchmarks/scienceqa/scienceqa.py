"""ScienceQA: two to five options; the questions with an image are what is reported."""

from __future__ import annotations

import string
from collections.abc import Mapping
from typing import Any

from mllm_eval.metrics.choices import choose
from mllm_eval.metrics.letters import after_keyword
from mllm_eval.metrics.metric import metric
from mllm_eval.metrics.tally import Rows, by_category, mean

NEEDS = {"choices": "list<string>", "answer": "int64", "grade": "string?"}
NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def has_image(record: Mapping[str, Any]) -> bool:
    """Whether the question has an image; a record that does not say so has one."""
    flag = next((record[key] for key in ("has_image", "img") if record.get(key) is not None), True)
    return bool(flag) and record.get("image", True) is not None


def cambrian(record: Mapping[str, Any], prediction: str) -> tuple[float, str | None, str]:
    """What stands before the first period is the letter, or the whole is the option's text."""
    said, text = after_keyword(prediction).rstrip("."), record["choices"][record["answer"]].lower().strip()
    gold, option = chr(ord("a") + record["answer"]), said.split(".")[0]
    equal = said.translate(NO_PUNCTUATION).strip() == text.translate(NO_PUNCTUATION).strip()
    note = "" if has_image(record) else "no image: not counted"
    return float(equal or option == gold), said or None, note


def robust(record: Mapping[str, Any], prediction: str) -> tuple[float, str | None, str]:
    """A standalone offered letter or the text of one option."""
    said = choose(prediction, record["choices"])
    note = "" if has_image(record) else "no image: not counted"
    return float(said == chr(ord("A") + record["answer"])), said, note if said else "no single option"


def guess(record: Mapping[str, Any]) -> float:
    """Share of blind guesses that are right."""
    return 1.0 / len(record["choices"])


def report(rules: str, rows: Rows) -> dict[str, Any]:
    """multimodal_acc over rows with an image, then grades; cambrian counts these rows twice in accuracy."""
    pictured = [(row, score) for row, score in rows if has_image(row)]
    out = {"multimodal_acc": mean(pictured), **by_category(rows, lambda row: row.get("grade") or "")}
    if rules == "cambrian":
        twice = [*rows, *pictured]
        out |= {"accuracy": mean(twice), "total_count": float(len(twice))}
        out["is_multimodal"] = {"accuracy": mean(pictured), "total": len(pictured)}
    return out


RULES = {"cambrian": cambrian, "robust": robust}
Metric = metric(__doc__ or "", {**NEEDS, "has_image": "bool"}, RULES, report)

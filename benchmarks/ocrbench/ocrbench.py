"""OCRBench: any gold text occurs in the answer; handwritten formulas without spaces and with their case."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from mllm_eval.metrics.metric import metric
from mllm_eval.metrics.plain import final, plain
from mllm_eval.metrics.tally import Rows

NEEDS = {"question_type": "string", "answer": "list<string>"}
FORMULA = "Handwritten Mathematical Expression Recognition"
RECOGNITION = ["Regular", "Irregular", "Artistic", "Handwriting", "Digit", "Non-Semantic"]


def cambrian(record: Mapping[str, Any], prediction: str) -> tuple[float, str | None, str]:
    """Substring, in lower case; for formulas without spaces, case kept."""

    def form(text: str) -> str:
        if record["question_type"] == FORMULA:
            return text.strip().replace("\n", " ").replace(" ", "")
        return text.lower().strip().replace("\n", " ")

    said = form(prediction)
    return float(any(form(gold) in said for gold in record["answer"])), said[:200] or None, ""


def robust(record: Mapping[str, Any], prediction: str) -> tuple[float, str | None, str]:
    """Whole words of the gold in a row in the answer; a formula equals the gold but for braces and spaces."""
    if record["question_type"] == FORMULA:
        said = _formula(final(plain(prediction, formulas=False)))
        return (
            float(said in {_formula(plain(gold, formulas=False)) for gold in record["answer"]}),
            said[:200] or None,
            "",
        )
    said = f" {' '.join(_words(prediction))} "
    golds = [" ".join(_words(gold)) for gold in record["answer"]]
    return float(any(gold and f" {gold} " in said for gold in golds)), said.strip()[:200] or None, ""


def _words(text: str) -> list[str]:
    text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", plain(text).lower())
    return re.findall(r"[^\W_]+(?:[.:/'-][^\W_]+)*", text)


def _formula(text: str) -> str:
    text = re.sub(r"\\(?:left|right|,|;|!|quad)|[$\s]", "", text)
    return re.sub(r"([_^])\{(\w)\}", r"\1\2", text).strip(".")


def report(rules: str, rows: Rows) -> dict[str, Any]:
    """Percent of each question type and of all (= Final Score / 10); robust adds the five groups' counts."""
    parts: dict[str, list[float]] = {}
    groups: dict[str, float] = {}
    for row, score in rows:
        kind = row["question_type"]
        parts.setdefault(kind, []).append(score)
        name = "Text Recognition" if kind.split(" ")[0] in RECOGNITION else kind
        groups[name] = groups.get(name, 0.0) + score
    out: dict[str, Any] = {
        kind: {"accuracy": 100.0 * (sum(scores) / len(scores)), "total": len(scores)} for kind, scores in parts.items()
    }
    share = sum(score for _, score in rows) / len(rows) if rows else 0.0
    out["total_accuracy"] = {"accuracy": 100.0 * share, "total": len(rows)}
    return {**out, "groups": groups} if rules == "robust" else out


RULES = {"cambrian": cambrian, "robust": robust}
Metric = metric(__doc__ or "", NEEDS, RULES, report)

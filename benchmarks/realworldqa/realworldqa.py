"""RealWorldQA: a letter, a number or a word, as the question itself demands."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from mllm_eval.metrics.choices import LETTERS, option_score
from mllm_eval.metrics.letters import after_keyword
from mllm_eval.metrics.metric import metric
from mllm_eval.metrics.plain import final, plain, words, yes_or_no
from mllm_eval.metrics.quantities import number, of_one_unit
from mllm_eval.metrics.tally import Rows, accuracy

NEEDS = {"answer": "string"}
OPTION = re.compile(r"^\s*([A-Z])[.)]\s*(.*?)\s*$", re.MULTILINE)


def is_letter(gold: str) -> bool:
    """Whether the gold answer is the letter of an option."""
    return len(gold) == 1 and gold.upper() in LETTERS


def cambrian(record: Mapping[str, Any], prediction: str) -> tuple[float, str | None, str]:
    """The first word of what follows the last keyword; the original crashes where nothing is left."""
    left = after_keyword(prediction).rstrip(".").split()
    if not left:
        return 0.0, None, "the original crashes here: no word is left"
    said = left[0]
    return float(said == record["answer"].lower()), said, ""


def robust(record: Mapping[str, Any], prediction: str) -> tuple[float, str | None, str]:
    """Gold a letter: the option named; yes or no; a number: the same number; else the same words."""
    gold, answer = record["answer"].strip(), plain(prediction)
    if is_letter(gold):
        found = dict(OPTION.findall(record.get("question") or ""))
        texts = found or dict.fromkeys(LETTERS[: max(4, LETTERS.index(gold.upper()) + 1)], "")
        return option_score(prediction, list(texts.values()), gold.upper(), "".join(texts))
    if gold.lower() in ("yes", "no"):
        said = yes_or_no(answer)
        return float(said == gold.lower()), said, "" if said else "neither yes nor no"
    wanted, last = number(gold), final(answer)
    if wanted is not None:
        value = number(last)
        return (
            float(value == wanted and of_one_unit(last, gold)),
            None if value is None else f"{value:g}",
            "" if value is not None else "no number",
        )
    return float(words(last) == words(gold)), last or None, ""


def guess(record: Mapping[str, Any]) -> float:
    """Share of blind guesses that are right: one of the letters, yes or no, nothing else."""
    if is_letter(record["answer"].strip()):
        return 1.0 / max(2, len(OPTION.findall(record.get("question") or "")))
    return 0.5 if record["answer"].strip().lower() in ("yes", "no") else 0.0


def report(rules: str, rows: Rows) -> dict[str, Any]:
    """{total, correct, accuracy}."""
    return accuracy(rows)


RULES = {"cambrian": cambrian, "robust": robust}
Metric = metric(__doc__ or "", {**NEEDS, "question": "string|null"}, RULES, report)

"""MMVP: two options, the same question about two images; a pair counts when both are right."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from mllm_eval.metrics.choices import option_score
from mllm_eval.metrics.letters import stripped
from mllm_eval.metrics.metric import metric
from mllm_eval.metrics.tally import Rows, in_groups, mean

NEEDS = {"index": "int64", "options": "string", "answer": "string"}


def options(record: Mapping[str, Any]) -> list[str]:
    """The texts of "(a) X (b) Y", cut at every bracket as the paper's code does."""
    return [part.split(")")[1].strip() for part in record["options"].split("(")[1:]]


def cambrian(record: Mapping[str, Any], prediction: str) -> tuple[float, str | None, str]:
    """What follows the last keyword is the letter or the option's text."""
    said, gold = stripped(prediction), record["answer"].lower()[1]
    texts = [text.lower() for text in options(record)]
    known = said in texts or (len(said) == 1 and said in "ab")
    right = said == gold or said == texts[ord(gold) - ord("a")]
    return float(right), said if known else None, "" if known else "no offered letter or text"


def robust(record: Mapping[str, Any], prediction: str) -> tuple[float, str | None, str]:
    """A standalone offered letter or the text of one option."""
    texts = [part.strip() for part in re.split(r"\([ab]\)", record["options"])[1:]]
    return option_score(prediction, texts, record["answer"].strip("() ").upper())


def group(record: Mapping[str, Any]) -> tuple[str, int]:
    """The pair: indices 1 and 2, 3 and 4, ..."""
    return str((record["index"] + 1) // 2), 2


def guess(record: Mapping[str, Any]) -> float:
    """Share of blind guesses that are right."""
    return 0.5


def chance(records: Sequence[Mapping[str, Any]]) -> float:
    """Pair accuracy of blind guesses, in percent."""
    return 25.0


def report(rules: str, rows: Rows) -> dict[str, Any]:
    """Pair accuracy in percent as `accuracy`; `correct` counts both questions of a right pair."""
    pairs = in_groups(rows, lambda row: group(row)[0])
    both = sum(len(pair) for pair in pairs.values() if len(pair) == 2 and min(pair) == 1.0)
    total = float(len(rows))
    share = 100.0 * both / total if rows else 0.0
    return {"total": total, "correct": float(both), "accuracy": share, "single": 100.0 * mean(rows)}


RULES = {"cambrian": cambrian, "robust": robust}
Metric = metric(__doc__ or "", NEEDS, RULES, report, group)

"""The distribution of the answers that a run gave, in words and as a table against the gold answers."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from mllm_eval.distribution import NONE, one_answer
from mllm_eval.report.evidence import Scored
from mllm_eval.report.words import title

UNREAD = "none read"


def one_answer_words(run: Scored) -> str:
    """Names the benchmarks where a single answer makes up most of all answers; "" if there are none.

    The text is a clause without a full stop.
    """
    said = []
    for name in run.benchmarks:
        if most := one_answer(run.record.given(run.summaries[name])):
            said.append(f"{most[0]!r} to {title(name)} in {most[1]:.0%}")
    return f"one answer makes up most: {', '.join(said)}; compare with the answers without the image" if said else ""


def confusion(given: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the confusion table: golds as rows, answers as columns. No rows if the golds are not labels.

    Each cell is a count. The last column gives the share of the row that is right.
    """
    table: Mapping[str, Mapping[str, int]] = given.get("confusion") or {}
    said = sorted({*table, *itertools.chain(*table.values())}, key=lambda text: (text == NONE, len(text), text))
    rows = []
    for gold, row in table.items():
        right = row.get(gold, 0) / sum(row.values())
        rows.append([gold, *(str(row.get(answer, 0)) for answer in said), f"{right:.0%}"])
    return ["gold", *(UNREAD if answer == NONE else answer for answer in said), "right"], rows


def top_answer(given: Mapping[str, Any]) -> str:
    """The most frequent answer with its share, such as `A 46%`; "" if no answer could be read."""
    answers: Mapping[str, int] = given.get("answers") or {}
    if not answers:
        return ""
    text, total = max(answers, key=lambda one: answers[one]), sum(answers.values()) + int(given.get("others") or 0)
    return f"{text} {answers[text] / total:.0%}"


def most_frequent(given: Mapping[str, Any], most: int = 6) -> str:
    """The `most` most frequent answers with their shares: `A 46%, B 30%, others 24%`."""
    answers: Mapping[str, int] = given.get("answers") or {}
    total = sum(answers.values()) + int(given.get("others") or 0)
    if not total:
        return "nothing was read"
    ranked: Sequence[tuple[str, int]] = sorted(answers.items(), key=lambda one: -one[1])
    said = [f"{text} {count / total:.0%}" for text, count in ranked[:most]]
    rest = total - sum(count for _, count in ranked[:most])
    return ", ".join([*said, *([f"others {rest / total:.0%}"] if rest else [])])

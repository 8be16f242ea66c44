"""DocVQA: average normalised Levenshtein similarity (ANLS) of the best gold answer, 0 below one half.

The paper's number is that of the challenge's server on the test split, whose answers are not public; this
is the same formula on the validation split.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mllm_eval.metrics.metric import metric
from mllm_eval.metrics.plain import final, plain
from mllm_eval.metrics.tally import Rows, mean

NEEDS = {"questionId": "string", "answers": "list<string>|null"}


def anls(said: str, gold: str) -> float:
    """1 - edit distance / longer length if that is at least 0.5, else 0; lower case, single spaces.

    The length is that of the texts as they stand: the challenge's script has it so.
    """
    longest = max(len(said.upper()), len(gold.upper()))
    said, gold = " ".join(said.lower().split()), " ".join(gold.lower().split())
    if said == gold:
        return 1.0
    if 2 * abs(len(said) - len(gold)) > longest:
        return 0.0
    share = 1.0 - (_distance(said, gold) if said else len(gold)) / longest
    return share if share >= 0.5 else 0.0


def _distance(one: str, two: str) -> int:
    """Levenshtein distance, a column of the matrix at a time in the bits of an integer (Hyyrö, 2003)."""
    places: dict[str, int] = {}
    for i, mark in enumerate(one):
        places[mark] = places.get(mark, 0) | 1 << i
    whole, top = (1 << len(one)) - 1, 1 << len(one) - 1
    up, down, distance = whole, 0, len(one)
    for mark in two:
        match = places.get(mark, 0)
        same = (((match & up) + up) ^ up) | match | down
        right, left = down | ~(same | up), up & same
        distance += bool(right & top) - bool(left & top)
        right, left = right << 1 | 1, left << 1
        up, down = (left | ~(same | right)) & whole, right & same & whole
    return distance


def cambrian(record: Mapping[str, Any], prediction: str) -> tuple[float | None, str | None, str]:
    """The challenge's rule on the answer as it stands; no score where the answers are hidden."""
    if not record["answers"]:
        return None, prediction.strip()[:200] or None, "hidden answers: for the challenge's server"
    said = prediction.strip()
    return max(anls(said, gold) for gold in record["answers"]), said[:200] or None, ""


def robust(record: Mapping[str, Any], prediction: str) -> tuple[float | None, str | None, str]:
    """The same on what follows the last "answer is", without markup and a final period."""
    if not record["answers"]:
        return None, prediction.strip()[:200] or None, "hidden answers: for the challenge's server"
    said = final(plain(prediction)).strip("\"'")
    return max(anls(s, plain(g)) for s in (said, said.rstrip(".")) for g in record["answers"]), said[:200] or None, ""


def submission(record: Mapping[str, Any], prediction: str) -> dict[str, Any]:
    """The entry of the file for the challenge's server."""
    return {"questionId": int(record["questionId"]), "answer": prediction.strip()}


def report(rules: str, rows: Rows) -> dict[str, Any]:
    """{anls, total}, anls as a fraction."""
    return {"anls": mean(rows), "total": float(len(rows))}


RULES = {"cambrian": cambrian, "robust": robust}
Metric = metric(__doc__ or "", NEEDS, RULES, report)

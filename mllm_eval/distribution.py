"""Count which answers a model gave, to expose models that, for instance, answer C to every question."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

# Thresholds of `one_answer`: share of all answers, ratio to the share of targets, and share if only two answers occur.
MOST, TIMES, BINARY = 0.5, 1.5, 0.75
LEAST = 20
"""Fewest answers for which `one_answer` judges a distribution."""
NAMED = 20
"""Number of distinct answers that are counted separately; the others are counted together."""
LABELS = 12
"""Most distinct targets of a confusion table."""
LONGEST = 8
"""Length of the longest label, `(false).`"""
NONE = ""
"""Key of a confusion table for answers without a label."""

_LABEL = re.compile(r"\(?([A-Za-z]|yes|no|true|false)[).:]?", re.IGNORECASE)


def label(text: str | None) -> str | None:
    """Return the option that a text names: an upper-case letter, yes, no, true or false; None for other texts."""
    text = (text or "").strip()
    match = _LABEL.fullmatch(text) if len(text) <= LONGEST else None
    return None if match is None else match[1].upper() if len(match[1]) == 1 else match[1].lower()


def distribution(parsed: Iterable[tuple[str | None, float | None]], targets: Iterable[str]) -> dict[str, Any]:
    """Count the parsed answers and the targets ("golds"), and their pairs where the targets are labels.

    Args:
        parsed: (parsed answer, score) of each sample; samples with score None (failed) are not counted.
        targets: the target of each sample.

    Returns:
        {"answers": {text: count}, "others": count, "golds": {text: count}, "confusion": {gold: {answer: count}}}.
        Answers and golds are the twenty most frequent, in descending order; `others` counts the remaining answers.
        "confusion" is empty unless at least half of the targets are labels (see `label`), of 2 to 12 distinct values;
        targets that are no labels are left out of it.
    """
    rows = zip(parsed, targets, strict=True)
    return counted(Counter((said, gold) for (said, score), gold in rows if score is not None))


def counted(pairs: Mapping[tuple[str | None, str], int]) -> dict[str, Any]:
    """Return the same as `distribution`, from the counts of (parsed answer, target) pairs."""
    given = [
        (label(said) or (said and said.strip().lower()) or None, gold.strip(), n) for (said, gold), n in pairs.items()
    ]
    total = sum(n for *_, n in given)
    letters = sum(n for said, _, n in given if said and len(said) == 1 and said.isupper())
    if given and all(len(gold) == 1 and gold.isdigit() for _, gold, _ in given) and letters > total / 2:
        # The targets number the options from 0, but the model was asked for letters.
        given = [(said, chr(ord("A") + int(gold)), n) for said, gold, n in given]
    answers, golds = Counter[str](), Counter[str]()
    table: dict[str, Counter[str]] = {}
    for said, gold, n in given:
        if said:
            answers[said[:60]] += n
        right = label(gold)
        golds[right or gold.lower()[:60]] += n
        if right:
            table.setdefault(right, Counter())[label(said) or NONE] += n
    named = dict(answers.most_common(NAMED))
    labelled = sum(row.total() for row in table.values())
    shown = table if 2 <= len(table) <= LABELS and 2 * labelled >= total else {}
    return {
        "answers": named,
        "others": answers.total() - sum(named.values()),
        "golds": dict(golds.most_common(NAMED)),
        "confusion": {gold: dict(sorted(shown[gold].items())) for gold in sorted(shown)},
    }


def one_answer(counts: Mapping[str, Any]) -> tuple[str, float] | None:
    """Return an answer that dominates a distribution far beyond its share of targets, and its share; None without one.

    It makes up more than half of all answers, and its share is more than 1.5 times its share of the targets. Where
    targets were not counted, it makes up more than half of three or more distinct answers, or more than three quarters
    of two. Fewer than 20 answers are not judged.
    """
    answers: Mapping[str, int] = counts.get("answers") or {}
    total = sum(answers.values()) + int(counts.get("others") or 0)
    if total < LEAST:
        return None
    most = max(answers, key=lambda text: answers[text])
    share, golds = answers[most] / total, counts.get("golds") or {}
    if golds:
        right = golds.get(most, 0) / sum(golds.values())
        return (most, share) if share > MOST and share > TIMES * right else None
    return (most, share) if share > (MOST if len(answers) > 2 else BINARY) else None


def of_lines(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return "answers" and "others" of `distribution` from lines of scores ({"parsed", "score"}) without targets."""
    counts = distribution(((line["parsed"], line["score"]) for line in lines), ("" for _ in lines))
    return {"answers": counts["answers"], "others": counts["others"]}

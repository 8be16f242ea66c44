"""Which answers a model gave, and which were right: what a score does not tell of a model that says C to everything."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

# An answer that is more than half of all, and so much more often given than right, says little of the image.
MOST, TIMES, BINARY = 0.5, 1.5, 0.75
LEAST = 20
"""Answers fewer than these have no distribution to speak of."""
NAMED = 20
"""Different answers that are counted each; the others are counted together."""
LABELS = 12
"""A confusion table has no more golds than these."""
LONGEST = 8
"""Letters of the longest label, `(false).`"""
NONE = ""
"""Stands in a confusion table for an answer in which no label was read."""

_LABEL = re.compile(r"\(?([A-Za-z]|yes|no|true|false)[).:]?", re.IGNORECASE)


def label(text: str | None) -> str | None:
    """The option that a text is: an upper-case letter, or yes, no, true, false; None for any other text."""
    text = (text or "").strip()
    match = _LABEL.fullmatch(text) if len(text) <= LONGEST else None
    return None if match is None else match[1].upper() if len(match[1]) == 1 else match[1].lower()


def distribution(parsed: Iterable[tuple[str | None, float | None]], targets: Iterable[str]) -> dict[str, Any]:
    """Counts of the answers that were read, of the golds, and of both together where the golds are labels.

    Args:
        parsed: of each sample what was read from its answer, and its score; a failed sample (None) counts nowhere.
        targets: its gold answer.

    Returns:
        {"answers": {text: count}, "others": count, "golds": {text: count}, "confusion": {gold: {answer: count}}};
        answers and golds by falling count, `others` those beyond twenty. The table is empty unless half of the golds
        are letters, or yes and no; golds that are none are left out of it.
    """
    rows = zip(parsed, targets, strict=True)
    return counted(Counter((said, gold) for (said, score), gold in rows if score is not None))


def counted(pairs: Mapping[tuple[str | None, str], int]) -> dict[str, Any]:
    """As `distribution`, of how often each was read from an answer to each gold. What is equal is looked at once."""
    given = [
        (label(said) or (said and said.strip().lower()) or None, gold.strip(), n) for (said, gold), n in pairs.items()
    ]
    total = sum(n for *_, n in given)
    letters = sum(n for said, _, n in given if said and len(said) == 1 and said.isupper())
    if given and all(len(gold) == 1 and gold.isdigit() for _, gold, _ in given) and letters > total / 2:
        # Golds that number the options from 0, where the model is asked for letters.
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
    """The answer that makes up most of a distribution without being right so often, and its share; None without one.

    It is more than half of all answers, and more than 1.5 times as frequent as among the golds; where the golds were
    not counted, more than half of three or more different answers, or three quarters of two.
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
    """The answers alone, of lines of scores ({"parsed", "score"}) whose golds are not at hand."""
    counts = distribution(((line["parsed"], line["score"]) for line in lines), ("" for _ in lines))
    return {"answers": counts["answers"], "others": counts["others"]}

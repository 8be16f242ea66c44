"""What a guesser reaches who never sees a picture: the check that questions need the image."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from mllm_eval.miniature.benchmarks.deck import blanked

_OPTION = re.compile(r"^\(?([A-F])[.)] (.*)$", re.MULTILINE)
_RARE = 8
"""A wording that occurs less often is put together with the other rare ones that have as many options."""


def prior_score(asked: Sequence[tuple[str, str]]) -> float:
    """The larger share of right answers, in [0, 1], of two guessers, given (prompt, answer) of each question.

    One gives each wording of a question (`deck.blanked`) the answer that fits it best, or letter, with hindsight.
    The other gives the offered option whose text was right most often among the other questions of its wording.
    An answer is text, an option's text, or an option's letter, "B" or "(B)".
    """
    return max(_constant(asked), _favourite(asked))


def _wording(prompt: str) -> str:
    return blanked(_OPTION.sub(r"\1. _", prompt))


def _letter(answer: str, options: Mapping[str, str]) -> str:
    named = [letter for letter, text in options.items() if text == answer]
    return named[0] if named else answer.strip("()").upper()


def _constant(asked: Sequence[tuple[str, str]]) -> float:
    keys = [_wording(prompt) for prompt, _ in asked]
    often = Counter(keys)
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    for key, (prompt, answer) in zip(keys, asked, strict=True):
        rare = f"{len(_OPTION.findall(prompt))} options"
        gold = _letter(answer, dict(_OPTION.findall(prompt)))
        answers[key if often[key] >= _RARE else rare][gold] += 1
    return sum(max(counts.values()) for counts in answers.values()) / len(asked)


def _favourite(asked: Sequence[tuple[str, str]]) -> float:
    offered: Counter[tuple[str, str]] = Counter()
    right: Counter[tuple[str, str]] = Counter()
    parsed: list[tuple[str, dict[str, str], str]] = []
    for prompt, answer in asked:
        key, options = _wording(prompt), dict(_OPTION.findall(prompt))
        gold = _letter(answer, options)
        parsed.append((key, options, gold))
        offered.update((key, text) for text in options.values())
        if gold in options:
            right[(key, options[gold])] += 1
    score = 0.0
    for key, options, gold in parsed:
        if gold not in options:
            continue
        rate = {
            letter: (right[(key, text)] - (letter == gold) + 1) / (offered[(key, text)] + len(options))
            for letter, text in options.items()
        }
        best = [letter for letter, value in rate.items() if value == max(rate.values())]
        score += (gold in best) / len(best)
    return score / len(asked)

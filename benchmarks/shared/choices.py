"""Multiple choice read fairly: a standalone offered letter, or the text of exactly one option.

In order: the whole answer is a letter; the whole answer is an option's text; a letter named by "answer is",
"option" or "choice" (the last one counts); a letter that opens the answer with a mark behind it; the only
standalone capital letter; the only option whose text occurs. Two candidates mean no answer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

_WHOLE = re.compile(r"[\s(\[{\"'.:]*([A-Za-z])[\s)\]}\"'.,:;!]*")
_NAMED = re.compile(
    r"\b(?:answer|option|choice)\s*(?:is|:|=)?\s*:?\s*(?:option\s+|choice\s+)?[(\[\"']*([A-Za-z])"
    r"(?P<tail>(?:[)\]\"'.,:;!]|\s+(?!or\b|and\b)|$))(?P<next>\w?)",
    re.IGNORECASE,
)
_OPENING = re.compile(r"[(\[\"']*([A-Za-z])[)\]\"'.:]+\s*(?P<rest>.*)", re.DOTALL)
_CAPITAL = re.compile(r"(?<![\w'])([A-Z])(?![\w'])")
_NEGATION = re.compile(r"(?:\bnot|n't|\bnor|\bneither)(?:\s+(?:an?|the|option))?\s*$")
_TOKEN = re.compile(r"[-+]?\d+(?:[.,]\d+)*%?|[^\W_]+(?:'[^\W_]+)*")
_NUMBERS = dict(
    zip(
        ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"],
        map(str, range(11)),
        strict=True,
    )
)


def choose(answer: str, options: Sequence[str]) -> str | None:
    """The upper-case letter of the option that a plain answer names, None where it names none or several."""
    offered = [chr(ord("A") + i) for i in range(len(options))]
    texts = [_said(option) for option in options]
    whole = _WHOLE.fullmatch(answer)
    if whole and whole.group(1).upper() in offered:
        return whole.group(1).upper()
    verbatim = [option.strip().casefold() for option in options]
    if verbatim.count(answer.casefold()) == 1:
        return offered[verbatim.index(answer.casefold())]
    said = _said(answer)
    if said and texts.count(said) == 1:
        return offered[texts.index(said)]
    named = [m for m in _NAMED.finditer(answer) if m.group(1).upper() in offered and not _article(m)]
    if named:
        return named[-1].group(1).upper()
    return _opening(answer, offered, texts) or _only_capital(answer, offered) or _only_text(said, offered, texts)


def option_score(answer: str, options: Sequence[str], gold: str) -> tuple[float, str | None, str]:
    """Score of a plain answer against an upper-case gold letter; parsed is None where no option is named."""
    said = choose(answer, options)
    return float(said == gold), said, "" if said else "no single option"


def _article(match: re.Match[str]) -> bool:
    return match.group(1) == "a" and match.group("tail").isspace() and bool(match.group("next"))


def _opening(answer: str, offered: list[str], texts: list[str]) -> str | None:
    match = _OPENING.match(answer)
    if not match or match.group(1).upper() not in offered:
        return None
    letter, rest = match.group(1).upper(), match.group("rest")
    if _said(rest) == texts[offered.index(letter)]:
        return letter
    others = {found for found in _CAPITAL.findall(rest) if found in offered and found not in ("A", "I")}
    return letter if others <= {letter} else None


def _only_capital(answer: str, offered: list[str]) -> str | None:
    found = set()
    for match in _CAPITAL.finditer(answer):
        letter, behind = match.group(1), answer[match.end() : match.end() + 12]
        # "A picture" and "I think" are words, not letters.
        word = letter in ("A", "I") and re.match(r"\s+[a-z']", behind) and not re.match(r"\s+(?:or|and|is)\b", behind)
        if letter in offered and not word and not _NEGATION.search(_before(answer, match.start())):
            found.add(letter)
    return found.pop() if len(found) == 1 else None


def _only_text(said: str, offered: list[str], texts: list[str]) -> str | None:
    hits = []
    for letter, text in zip(offered, texts, strict=True):
        at = f" {said} ".find(f" {text} ") if text else -1
        if at >= 0 and not _NEGATION.search(_before(said, at)):
            hits.append((letter, text))
    # "both increase and decrease" holds two other options' texts; the longest explains them.
    hits = [hit for hit in hits if not any(hit[1] != text and f" {hit[1]} " in f" {text} " for _, text in hits)]
    return hits[0][0] if len(hits) == 1 else None


def _before(text: str, at: int) -> str:
    return text[max(0, at - 24) : at].lower()


def _said(text: str) -> str:
    """The text as its words, lower case, without punctuation and articles, number words as digits."""
    return _words(text) if len(text) < 200 else _words.__wrapped__(text)


@lru_cache(maxsize=16_384)
def _words(text: str) -> str:
    found = _TOKEN.findall(text.lower())
    kept = [_NUMBERS.get(word, word) for word in found if word not in ("a", "an", "the")]
    return " ".join(kept or found)

"""Answers freed of what says nothing about them: marks, markup, look-alike characters, opening phrases."""

from __future__ import annotations

import re
import unicodedata

_INVISIBLE = dict.fromkeys([0x200B, 0x200C, 0x200D, 0x2060, 0xFEFF, 0x00AD])
_CURLY = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2212": "-", "\u2013": "-"})
_MARKUP = re.compile(r"\\boxed\{([^{}]*)\}|\\text\{([^{}]*)\}|</?[A-Za-z]{1,12}>|[*`$]{1,3}|\\[()\[\]]")
_MARKS = frozenset("\\<*`$")
_LEAD = re.compile(r"\banswer\s*(?:is\s*:?|:)", re.IGNORECASE)
_NUMBERS = dict(
    zip(
        ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"],
        map(str, range(11)),
        strict=True,
    )
)
_WORD = re.compile(r"[^\W_]+(?:[.,'][^\W_]+)*")


LONGEST = 20_000


def plain(text: str) -> str:
    """One form for look-alike characters, no invisible ones, no markup, single spaces.

    Of an answer of more than 20,000 characters the first and the last 10,000 are read.
    """
    if len(text) > LONGEST:
        text = f"{text[: LONGEST // 2]} {text[-LONGEST // 2 :]}"
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text).translate(_INVISIBLE).translate(_CURLY)
    if not _MARKS.isdisjoint(text):
        text = _MARKUP.sub(lambda match: match.group(1) or match.group(2) or "", text)
    return " ".join(text.split())


def final(text: str) -> str:
    """What follows the last "answer is", "answer is:" or "answer:" of a plain text, else all of it."""
    ends = [match.end() for match in _LEAD.finditer(text)]
    rest = text[ends[-1] :].strip(" :") if ends else ""
    return rest or text


def words(text: str) -> list[str]:
    """Lower-case words without punctuation and articles; number words as digits, 1,000 as 1000."""
    found = [word.replace(",", "") if word[0].isdigit() else word for word in _WORD.findall(text.lower())]
    kept = [_NUMBERS.get(word, word) for word in found if word not in ("a", "an", "the")]
    return kept or found


def yes_or_no(text: str) -> str | None:
    """The opening yes or no, else the only one of the two that occurs; None for neither or both."""
    said = words(plain(final(plain(text))))
    short = {"y": "yes", "n": "no"}
    if said and said[0] in ("yes", "no"):
        return None if said[1:2] in (["or"], ["and"], ["yes"], ["no"]) else said[0]
    if len(said) == 1:
        return short.get(said[0])
    both = {word for word in said if word in ("yes", "no")}
    return both.pop() if len(both) == 1 else None

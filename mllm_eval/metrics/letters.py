"""Multiple choice as the paper's code reads it: the first character of what follows the last keyword.

Its faults are kept on purpose: "answer is" is cut before "answer is:" can be, so "The answer is: B" leaves
": b"; a longer answer is cut to its first character, so "bear" is the letter B.
"""

from __future__ import annotations

LETTERS = "abcdefghijklmnopqrstuvwxyz"
KEYWORDS = ("answer is", "answer is:", "answer:")


def after_keyword(text: str) -> str:
    """Lower case, and only what follows the last keyword."""
    text = text.lower().strip()
    for keyword in KEYWORDS:
        if keyword in text:
            text = text.split(keyword)[-1]
    return text.strip()


def stripped(text: str, edge: str = ".:,") -> str:
    """What follows the keyword, without marks at its end and brackets around it."""
    return after_keyword(text).rstrip(edge).lstrip("(").rstrip(")")


def first_letter(text: str, edge: str = ".:,") -> str:
    """The first character of that, "" for nothing."""
    return stripped(text, edge)[:1]


def letter_score(prediction: str, gold: str, offered: str, edge: str = ".:,") -> tuple[float, str | None, str]:
    """Score of an answer against a lower-case gold letter; parsed is None outside the offered letters ("abd")."""
    letter = first_letter(prediction, edge)
    known = letter != "" and letter in offered
    return float(letter == gold), letter.upper() if known else None, "" if known else "no offered letter"

"""Numbers in answers: read with signs, separators and units; tolerances are taken from the gold."""

from __future__ import annotations

import math
import re

_NUMBER = re.compile(r"(?<![\w.])[-+]?(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?|\.\d+)(?![\d_])")
# Bounded: Python refuses to read an integer of thousands of digits, which a model may well write.
_FRACTION = re.compile(r"\s*([-+]?\d{1,300})\s*/\s*(\d{1,300})\s*\.?\s*")
_WORDS = dict(
    zip(
        ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"],
        range(11),
        strict=True,
    )
)


def python_number(text: str) -> float | None:
    """What `float()` reads, inf, nan, 1_000 and full-width digits included; None where it raises."""
    try:
        return float(text)
    except ValueError:
        return None


def number(text: str) -> float | None:
    """The one finite number of a plain text, with its sign; None for none or several different ones.

    Separators, currency, percent signs and units are dropped; a lone fraction or number word counts.
    """
    word = _WORDS.get(text.strip(" .,!").lower())
    if word is not None:
        return float(word)
    if fraction := _FRACTION.fullmatch(text):
        return int(fraction.group(1)) / int(fraction.group(2)) if int(fraction.group(2)) else None
    found = {float(match.replace(",", "")) for match in _NUMBER.findall(text)}
    value = found.pop() if len(found) == 1 else None
    return value if value is not None and math.isfinite(value) else None


def close(value: float, gold: float, tolerance: float = 0.05) -> bool:
    """Within a share of the gold, both finite."""
    return math.isfinite(value) and math.isfinite(gold) and abs(value - gold) <= abs(gold) * tolerance + 1e-12

"""Numbers in answers: read with signs, separators and units; tolerances are taken from the gold."""

from __future__ import annotations

import math
import re

from mllm_eval.metrics.numerals import amount, scaled

_NUMBER = re.compile(
    r"(?<![\w.^\u221a])(?<!\^[-+])[-+]?(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?|\.\d+)(?![\d_]|\^[-+\d])"
)
# Bounded: Python refuses to read an integer of thousands of digits, which a model may well write.
_FRACTION = re.compile(r"\s*(?:([-+]?\d{1,300})\s+)?([-+]?\d{1,300})\s*/\s*(\d{1,300})\s*\.?\s*")
_SPACED = re.compile(r"[-+]?\d{1,3}(?: \d{3})+(?:\.\d+)?[ .]*")
_MINUS = re.compile(r"(?<![\w)] )(?<![\w)])(?:minus|negative) (?=\.?\d)", re.IGNORECASE)
_PERCENT = re.compile(r"\d\s*(?:%|percent\b|per cent\b)", re.IGNORECASE)
_VALUE = r"([-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?)(?!,?\d)"
# "26 degrees, since 90 - 64 = 26", but neither "14, 15" nor "5, or maybe 6".
_REASONED = re.compile(
    rf"[~$]?{_VALUE}\s?[%\u00b0]?(?:\s?[A-Za-z\u00b0/^2-3]+){{0,3}}(?:[.,;:(]|\s\()\s*"
    r"(?=(?:since|because|as|which|explanation|reason|so|the|there|this|it|we|i|here|given|from|based)\b)"
    r"(?!.*\b(?:or|maybe|might|could|possibly|perhaps|actually|wait)\b)",
    re.IGNORECASE | re.DOTALL,
)
_EQUATION = re.compile(rf"\d[ )]*=\s*[$]?{_VALUE}\s?(?:%|\u00b0|[A-Za-z]{{1,8}})?[ .]*$")
_YEAR = re.compile(r"(?:1\d|2[01])\d\d(?:\.0+)?")
_ASKS_TIME = re.compile(r"\b(?:years?|when|dates?|dated|centur(?:y|ies)|decades?)\b", re.IGNORECASE)


def python_number(text: str) -> float | None:
    """What `float()` reads, inf, nan, 1_000 and full-width digits included; None where it raises."""
    try:
        return float(text)
    except ValueError:
        return None


def number(text: str) -> float | None:
    """The one finite number of a plain text, with its sign; None for none or several different ones.

    Separators, currency, percent signs and units are dropped; a lone fraction counts, so does a number in words, and
    "1.5 million" is 1500000. Of several numbers that one counts with which the text begins and which a reason follows,
    or which ends its last equation.
    """
    text = scaled(text)[0]
    if text[:1].isalpha() and (word := amount(text)) is not None and word.known:
        return float(word.value)
    if fraction := _FRACTION.fullmatch(text):
        whole, above, below = (int(part or 0) for part in fraction.groups())
        if not below or (fraction.group(1) and above < 0):
            return None
        return whole + math.copysign(above / below, whole) if fraction.group(1) else above / below
    text = _MINUS.sub("-", text)
    if _SPACED.fullmatch(text):
        text = text.replace(" ", "")
    found = {float(match.replace(",", "")) for match in _NUMBER.findall(text)}
    if len(found) > 1 and (one := _REASONED.match(text) or _EQUATION.search(text)):
        found = {float(one.group(1).replace(",", ""))}
    value = found.pop() if len(found) == 1 else None
    return value if value is not None and math.isfinite(value) else None


def of_one_unit(answer: str, gold: str) -> bool:
    """Whether two plain texts don't contradict each other in their units; shares and percentages are `agrees`'s."""
    units = {one.unit for one in map(amount, (answer, gold)) if one is not None and one.known} - {"", "%"}
    return len(units) < 2


def is_quantity(gold: str) -> bool:
    """Whether a plain gold answer is a number to be met within a tolerance: one without words, or with a known unit."""
    one = amount(gold)
    return not re.search(r"[A-Za-z\[\]]", gold) or (one is not None and one.known)


def close(value: float, gold: float, tolerance: float = 0.05) -> bool:
    """Within a share of the gold, both finite."""
    return math.isfinite(value) and math.isfinite(gold) and abs(value - gold) <= abs(gold) * tolerance + 1e-12


def is_year(gold: str, question: str = "") -> bool:
    """Whether a plain gold answer is a year: 1800 to 2099, and 1000 to 2199 where the question asks for a time."""
    year = _YEAR.fullmatch(gold)
    return year is not None and (18 <= int(gold[:2]) <= 20 or _ASKS_TIME.search(question) is not None)


def agrees(answer: str, gold: str, question: str = "") -> tuple[bool, float | None]:
    """Whether a plain answer's number fits a plain gold, and the number read (None: no single one).

    Within 5 % of the gold; years exactly. A percentage fits its fraction, 57 % and 0.57, whichever of the
    two is the gold. "1.5 million" fits 1500000, and 1.5 where only one of the two has the scale, as where an axis
    is in millions. Of two known units both must be the same.
    """
    value, wanted = number(answer), number(gold)
    if value is None or wanted is None:
        return False, value
    if not of_one_unit(answer, gold):
        return False, value
    tolerance = 0.0 if is_year(gold, question) else 0.05
    said, meant = (_PERCENT.search(text) is not None for text in (answer, gold))
    values = [value]
    scales = [scaled(text)[1] for text in (answer, gold)]
    if scales[0] > 1 and scales[1] == 1:
        values.append(value / scales[0])
    elif scales[1] > 1 and scales[0] == 1:
        values.append(value * scales[1])
    if meant and not said:
        values.append(value * 100)
    elif said and not meant and abs(wanted) < 1:
        values.append(value / 100)
    return any(close(one, wanted, tolerance) for one in values), value

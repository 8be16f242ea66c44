"""Numbers in words, with a scale or with a unit: "twenty-one", "1.5 million", "12 cm", "3/4"."""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

_TO_NINETEEN = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
seventeen eighteen nineteen"""
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
WORDS = {word: number for number, word in enumerate(_TO_NINETEEN.split())}
WORDS |= {word: 10 * number for number, word in enumerate(_TENS.split(), 2)}
"""The one table of number words: zero to nineteen, and the tens to ninety."""
SCALES = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_SCALED = re.compile(
    rf"(?<![\w.,/])([-+]?(?:\d{{1,3}}(?:,\d{{3}})+|\d{{1,30}})(?:\.\d{{1,30}})?|[-+]?\.\d{{1,30}})"
    rf"(?:\s|-)({'|'.join(SCALES)})s?\b(?!\s*/)",
    re.IGNORECASE,
)
_DIGITS = re.compile(r"[-+]?\d{1,30}(?:\.\d{1,30})?")
# Bounded: Python refuses to read an integer of thousands of digits, which a model may well write.
_AMOUNT = re.compile(
    r"(?P<money>[$\u20ac\u00a3]\s?)?(?P<sign>[-+]?)(?P<money2>[$\u20ac\u00a3]\s?)?"
    r"(?:(?:(?P<whole>\d{1,30})\s+)?(?P<above>\d{1,30})\s*/\s*(?P<below>\d{1,30})"
    r"|(?P<number>(?:\d{1,3}(?:,\d{3})+|\d{1,30})(?:\.(?P<places>\d{1,30}))?|\.(?P<places2>\d{1,30})))"
    r"\s?(?P<unit>(?:(?:[^\W\d_]|[\u00b0%'\"])(?:[^\W\d_]|/|\^?[23])*(?:\s[^\W\d_]+)?)?)[\s.]*"
)
_JOINING = "and or to of more less fewer above below plus minus over under at on by from is than"
_LONGEST = 80
_NO_UNIT = frozenset(_JOINING.split())
_NAMES = {
    "mm": "millimeter millimeters millimetre millimetres",
    "cm": "centimeter centimeters centimetre centimetres",
    "m": "meter meters metre metres",
    "km": "kilometer kilometers kilometre kilometres kms",
    "in": "inch inches",
    "ft": "foot feet",
    "yd": "yard yards yds",
    "mi": "mile miles",
    "mg": "milligram milligrams",
    "g": "gram grams",
    "kg": "kilogram kilograms kilo kilos kgs",
    "lb": "lbs pound pounds",
    "oz": "ounce ounces",
    "t": "ton tons tonne tonnes",
    "ms": "millisecond milliseconds",
    "s": "sec secs second seconds",
    "min": "mins minute minutes",
    "h": "hr hrs hour hours",
    "day": "days",
    "week": "weeks",
    "month": "months",
    "year": "years yr yrs",
    "ml": "milliliter milliliters millilitre millilitres",
    "l": "liter liters litre litres",
    "\u00b0c": "celsius",
    "\u00b0f": "fahrenheit",
    "\u00b0": "deg degree degrees",
    "$": "usd dollar dollars",
    "\u20ac": "eur euro euros",
    "%": "percent",
}
_UNITS = {name: unit for unit, known in _NAMES.items() for name in (unit, *known.split())}
_UNITS |= {f"degrees {name}": unit for name, unit in (("celsius", "\u00b0c"), ("fahrenheit", "\u00b0f"))}


class Amount(NamedTuple):
    """A number and its unit, "" without one. `places`: how many decimals it was written with; None for a fraction."""

    value: Fraction
    unit: str
    places: int | None

    @property
    def known(self) -> bool:
        """Whether the unit is one that everybody writes in the same few ways, or there is none."""
        return not self.unit or self.unit in _UNITS.values()

    def meets(self, other: Amount) -> bool:
        """Whether both say the same number, a fraction perhaps as a decimal rounded to two places or more."""
        if self.value == other.value:
            return True
        exact, rounded = (self, other) if self.places is None else (other, self)
        if exact.places is not None or rounded.places is None or rounded.places < 2:
            return False
        return abs(exact.value - rounded.value) <= Fraction(1, 2 * 10**rounded.places)


def numeral(words: Sequence[str], at: int = 0) -> tuple[int, int]:
    """The number that lower-case words spell out from `at` on, and how many words it takes; 0 of them for none."""
    total, end, limit = 0, at, 10**15
    part: int | None = None
    room = 0  # what may be added to the part: below ten behind "twenty", below a hundred behind "hundred"
    for index in range(at, len(words)):
        word = words[index]
        if word == "and" and end == index and words[index - 1] in SCALES and words[index + 1 : index + 2]:
            if words[index + 1] in WORDS:
                continue
            break
        value = WORDS.get(word)
        if value is not None and (part is None or 0 < value < room):
            part = (part or 0) + value
            room = 10 if value >= 20 else 0
        elif word == "hundred" and part and part < 100 and room <= 10:
            part, room = part * 100, 100
        elif word in SCALES and word != "hundred" and part and SCALES[word] < limit:
            total, limit, part, room = total + part * SCALES[word], SCALES[word], None, 0
        else:
            break
        end = index + 1
    return total + (part or 0), end - at


def folded(words: list[str]) -> list[str]:
    """Lower-case words with each number that is spelled out, or that a scale follows, in digits."""
    if _ALL.isdisjoint(words):
        return words
    found: list[str] = []
    at = 0
    while at < len(words):
        value, taken = numeral(words, at)
        if taken:
            found.append(str(value))
        elif words[at] in SCALES and found and _DIGITS.fullmatch(found[-1]):
            found[-1], taken = _product(found[-1], words[at]), 1
        else:
            found.append(words[at])
        at += taken or 1
    return found


_ALL = frozenset((*WORDS, *SCALES))


def _product(number: str, scale: str) -> str:
    value = Decimal(number.replace(",", "")) * SCALES[scale.lower()]
    return str(int(value)) if value == value.to_integral_value() else f"{value:f}"


def scaled(text: str) -> tuple[str, int]:
    """The text with "1.5 million" as 1500000, and the scale that the last such number had; 1 for none."""
    found = _SCALED.findall(text)
    if not found:
        return text, 1
    return _SCALED.sub(lambda match: _product(*match.groups()), text), SCALES[found[-1][1].lower()]


@lru_cache(maxsize=16_384)
def amount(text: str) -> Amount | None:
    """A clean text that is a number, in digits, in words or as a fraction, perhaps with a unit; None for any other."""
    text = text.strip(" .,!~")
    words = re.split(r"[\s-]+", text.lower()) if len(text) <= _LONGEST else []
    if not words or (_ALL.isdisjoint(words) and not any(map(str.isdigit, text))):
        return None
    text = scaled(text)[0]
    sign = "-" if words[0] in ("minus", "negative") else ""
    value, taken = numeral(words, len(sign))
    if taken:
        text = " ".join((f"{sign}{value}", *words[len(sign) + taken :]))
    match = _AMOUNT.fullmatch(text)
    if match is None:
        return None
    unit = match["unit"].strip().casefold()
    money = (match["money"] or match["money2"] or "").strip()
    if not _NO_UNIT.isdisjoint(unit.split()) or (money and unit and _UNITS.get(unit, unit) != money):
        return None
    if match["below"] is not None:
        if not int(match["below"]):
            return None
        number, places = int(match["whole"] or 0) + Fraction(int(match["above"]), int(match["below"])), None
    else:
        number, places = Fraction(match["number"].replace(",", "")), len(match["places"] or match["places2"] or "")
    unit = money or _UNITS.get(unit, unit)
    return Amount(-number if match["sign"] == "-" else number, unit, places)

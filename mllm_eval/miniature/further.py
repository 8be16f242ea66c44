"""What benchmarks ask beyond the questions and forms of the world: yes/no pairs, decimals, lists, hints, OCR tokens.

MME, for one, asks a picture one question whose answer is yes and one whose answer is no.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any

from mllm_eval.miniature.world import Picture
from mllm_eval.miniature.world.documents import FIELDS, ITEMS
from mllm_eval.miniature.world.objects import COLOR_NAMES, PATTERNS
from mllm_eval.miniature.world.picture import SHAPES, Question
from mllm_eval.miniature.world.print_ import WORDS, near_numbers

OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
SIDES = tuple(OPPOSITE)
QUARTERS = ("0.25", "0.5", "0.75")
SIDE_LISTS = tuple(f"[{w}, {h}]" for w in range(2, 10) for h in range(2, 10) if w != h)
TOKENS = "Reference OCR tokens: {}"
HINTS = {
    "scene": "Look at the objects.",
    "depth": "Look at the objects.",
    "distance": "Look at the objects.",
    "pattern": "Look at the pattern.",
    "diagram": "Look at the diagram.",
    "sign": "Look at the sign.",
    "signs": "Look at the signs.",
    "number": "Look at the number.",
    "figure": "Look at the figure.",
    "chart": "Look at the chart.",
    "table": "Look at the receipt.",
    "form": "Look at the form.",
}
"""What a benchmark with hints says before its question."""
DECIMAL = (
    "Hint: Please answer the question requiring a floating-point number with two decimal places and provide the "
    "final value, e.g., 1.23, 1.34, 1.45, at the end."
)
LIST = (
    "Hint: Please answer the question requiring a Python list as an answer and provide the final list, e.g., "
    "[1, 2, 3], [1.2, 1.3, 1.4], at the end."
)
Pair = tuple[Question, Question]
Texts = Iterator[tuple[str, str, str]]
"""Of each family: its name, the text whose answer is yes, the text whose answer is no."""


def other(rng: Random, pool: Sequence[str], *without: str) -> str:
    """A random one of the pool, but none of these."""
    return rng.choice([word for word in pool if word not in without])


def side_of(first: tuple[int, int], second: tuple[int, int]) -> str | None:
    """Where the first (row, column) is of the second; None on a diagonal, where two answers are true."""
    (r1, c1), (r2, c2) = first, second
    if r1 == r2:
        return "left of" if c1 < c2 else "right of"
    return ("above" if r1 < r2 else "below") if c1 == c2 else None


def _scene(facts: dict[str, Any], rng: Random) -> Texts:
    things, places = facts["things"], facts["places"]
    n = len(things)
    if n > 1:
        off = n + rng.choice((-1, 1)) if 2 < n < 6 else (3 if n == 2 else 5)
        yield "count_yes", f"Are there {n} objects in the image?", f"Are there {off} objects in the image?"
    color, shape = rng.choice(things)
    near = [(color, s) for s in SHAPES if (color, s) not in things]
    near += [(c, shape) for c in COLOR_NAMES if (c, shape) not in things]
    absent = rng.choice(near)
    text = "Is there a {} {} in the image?"
    yield "exist", text.format(color, shape), text.format(*absent)
    shapes = [s for _, s in things]
    single = [(c, s) for c, s in things if shapes.count(s) == 1]
    if single:
        color, shape = rng.choice(single)
        present = [c for c, _ in things if c != color] or list(COLOR_NAMES)
        yield "color_yes", f"Is the {shape} {color}?", f"Is the {shape} {other(rng, present, color)}?"
    sides = [(i, j, side_of(places[i], places[j])) for i in range(n) for j in range(n) if i != j]
    known = [(i, j, side) for i, j, side in sides if side]
    if known:
        i, j, side = rng.choice(known)
        a, b = " ".join(things[i]), " ".join(things[j])
        yield "relation_yes", f"Is the {a} {side} the {b}?", f"Is the {a} {OPPOSITE[side]} the {b}?"


def _depth(facts: dict[str, Any], rng: Random) -> Texts:
    near, far = " ".join(facts["near"]), " ".join(facts["far"])
    yield "front_yes", f"Is the {near} in front of the {far}?", f"Is the {far} in front of the {near}?"


def _pattern(facts: dict[str, Any], rng: Random) -> Texts:
    kind, color = facts["pattern"], facts["color"]
    text = "Does the image show {}?"
    yield "pattern_yes", text.format(kind), text.format(other(rng, PATTERNS, kind))
    wrong = other(rng, COLOR_NAMES, color)
    yield "pattern_color_yes", f"Are the {kind} {color}?", f"Are the {kind} {wrong}?"


def _sign(facts: dict[str, Any], rng: Random) -> Texts:
    word, color = facts["word"], facts["color"]
    yield "word_yes", f"Does the sign say {word}?", f"Does the sign say {other(rng, WORDS, word)}?"
    yield "sign_color_yes", f"Is the sign {color}?", f"Is the sign {other(rng, COLOR_NAMES, color)}?"


def _signs(facts: dict[str, Any], rng: Random) -> Texts:
    k = rng.randrange(2)
    text = f"Is the word at the {('top', 'bottom')[k]} {{}}?"
    yield "signs_place_yes", text.format(facts["words"][k]), text.format(facts["words"][1 - k])


def _number(facts: dict[str, Any], rng: Random) -> Texts:
    shown = facts["number"]
    yield "number_yes", f"Is the number {shown}?", f"Is the number {rng.choice(near_numbers(shown)[1:])}?"


def _figure(facts: dict[str, Any], rng: Random) -> Texts:
    if facts["figure"] == "sum":
        total = facts["a"] + facts["b"]
        yield "sum_yes", f"Is the sum {total}?", f"Is the sum {total + rng.choice((-1, 1))}?"


def _chart(facts: dict[str, Any], rng: Random) -> Texts:
    bars = rng.sample(list(zip(facts["colors"], facts["values"], strict=True)), 2)
    (high, _), (low, _) = sorted(bars, key=lambda bar: -bar[1])
    yield "bar_yes", f"Is the {high} bar taller than the {low} bar?", f"Is the {low} bar taller than the {high} bar?"


def _table(facts: dict[str, Any], rng: Random) -> Texts:
    items, prices = facts["items"], facts["prices"]
    text = "Is {} on the receipt?"
    yield "item_yes", text.format(rng.choice(items)), text.format(other(rng, ITEMS, *items))
    k = rng.randrange(3)
    text = f"Is the price of {items[k]} {{}}?"
    yield "price_yes", text.format(prices[k]), text.format(other(rng, prices, prices[k]))


def _form(facts: dict[str, Any], rng: Random) -> Texts:
    name = facts["NAME"]
    yield "name_yes", f"Is the name {name}?", f"Is the name {other(rng, FIELDS['NAME'], name)}?"


_ASKED: dict[str, Callable[[dict[str, Any], Random], Texts]] = {
    "scene": _scene,
    "depth": _depth,
    "pattern": _pattern,
    "sign": _sign,
    "signs": _signs,
    "number": _number,
    "figure": _figure,
    "chart": _chart,
    "table": _table,
    "form": _form,
}


def yes_no_pairs(pic: Picture, rng: Random) -> dict[str, Pair]:
    """By family: the same question once with the answer yes and once with the answer no."""
    asked = _ASKED.get(pic.kind)
    if asked is None:
        return {}
    return {
        family: (
            Question(family, yes, "yes", ("yes", "no"), pic.caption),
            Question(family, no, "no", ("no", "yes"), pic.caption),
        )
        for family, yes, no in asked(pic.facts, rng)
    }


def quantities(pic: Picture) -> list[Question]:
    """What MathVista asks besides whole numbers: a decimal of the shaded circle, a list of a rectangle's sides."""
    facts: dict[str, Any] = pic.facts
    if facts.get("figure") == "fraction" and 0 < facts["parts"] < 4:
        answer = QUARTERS[facts["parts"] - 1]
        text = "What fraction of the circle is shaded?"
        return [Question("decimal", text, answer, (answer, *(q for q in QUARTERS if q != answer)), pic.caption)]
    if facts.get("figure") == "rectangle":
        w, h = facts["wide"], facts["high"]
        wrong = (f"[{h}, {w}]", f"[{w}, {w}]", f"[{h}, {h}]")
        text = "What are the width and the height of the rectangle?"
        return [Question("list", text, f"[{w}, {h}]", (f"[{w}, {h}]", *wrong), pic.caption)]
    return []


def ocr_tokens(pic: Picture, rng: Random) -> list[str]:
    """The words of a picture with signs and as many that are not there (at least two), shuffled."""
    found: Any = pic.facts["words"] if "words" in pic.facts else [pic.facts["word"]]
    tokens = list(found)
    while len(tokens) < len(found) + 2:
        tokens.append(other(rng, WORDS, *tokens))
    rng.shuffle(tokens)
    return tokens


def new_questions(pic: Picture, rng: Random) -> list[Question]:
    """The questions of this module whose family the picture does not ask itself; one of each pair."""
    own = {question.family for question in pic.questions}
    pairs = yes_no_pairs(pic, rng)
    drawn = [rng.choice(pair) for family, pair in pairs.items() if family not in own | _WORLD]
    return drawn + quantities(pic)


_WORLD = {
    "exist",
    "relation_yes",
    "front_yes",
    "pattern_yes",
    "word_yes",
    "number_yes",
    "sum_yes",
    "bar_yes",
    "item_yes",
}

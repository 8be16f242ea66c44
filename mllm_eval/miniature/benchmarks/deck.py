"""Pictures that occur nowhere else, and questions about them whose answers are spread evenly.

Where every answer to a wording of a question is equally frequent, no constant answer is worth more than chance.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from PIL import Image

from mllm_eval.miniature.further import OPPOSITE, QUARTERS, SIDE_LISTS, SIDES, side_of
from mllm_eval.miniature.phrasing import LETTERS
from mllm_eval.miniature.world import KINDS, Picture
from mllm_eval.miniature.world.documents import FIELDS, ITEMS
from mllm_eval.miniature.world.objects import COLOR_NAMES, LABELS, PATTERNS
from mllm_eval.miniature.world.picture import SHAPES, Question
from mllm_eval.miniature.world.print_ import WORDS

DIGITS = tuple(str(n) for n in range(1, 10))
SPACES: dict[str, tuple[str, ...]] = {
    "count": DIGITS[:6],
    "count_color": DIGITS[:4],
    "color": COLOR_NAMES,
    "shape": SHAPES,
    "relation": SIDES,
    "front_color": COLOR_NAMES,
    "front_shape": SHAPES[:5],
    "pattern": PATTERNS,
    "pattern_color": COLOR_NAMES,
    "word": WORDS,
    "sign_color": COLOR_NAMES,
    "signs_color": WORDS,
    "signs_place": WORDS,
    "word_color": COLOR_NAMES,
    "number": tuple(str(n) for n in range(10, 100)),
    "sum": DIGITS[1:],
    "operand": DIGITS[:5],
    "width": DIGITS[1:],
    "height": DIGITS[1:],
    "fraction": ("0", *DIGITS[:4]),
    "decimal": QUARTERS,
    "list": SIDE_LISTS,
    "bar_value": DIGITS,
    "bar_max": COLOR_NAMES,
    "bar_min": COLOR_NAMES,
    "bar_count": ("3", "4"),
    "price": DIGITS,
    "item": ITEMS,
    "field_name": FIELDS["NAME"],
    "field_city": FIELDS["CITY"],
    "field_room": DIGITS,
    "label_shape": SHAPES,
    "shape_label": LABELS,
}
"""What a question of a family can have as its answer, as far as benchmarks ask it."""
_WORDS = sorted(
    {*COLOR_NAMES, *SHAPES, *PATTERNS, *WORDS, *ITEMS, *FIELDS["NAME"], *FIELDS["CITY"], *SIDES, "top", "bottom"},
    key=len,
    reverse=True,
)
_CONTENT = re.compile(rf"\b(?:{'|'.join(_WORDS)}|[{''.join(LABELS)}]|\d+)\b")
_IN_PICTURE = {"signs_color": 1, "signs_place": 1, "word_color": 1, "item": 2}
"""How many of a question's first wrong answers stand in the picture too: only these make it a question of place."""


def blanked(text: str) -> str:
    """The wording of a question: its text without what differs between pictures."""
    return _CONTENT.sub("_", text)


def fingerprint(image: Image.Image) -> bytes:
    """A hash of the pixels and the size."""
    return hashlib.blake2b(image.tobytes() + repr(image.size).encode(), digest_size=16).digest()


@dataclass(frozen=True, slots=True)
class Item:
    """A question about a picture; with `options`, `right` is the index of the right one."""

    picture: Picture
    question: Question
    options: tuple[str, ...] = ()
    right: int = 0

    @property
    def letter(self) -> str:
        """The letter of the right option."""
        return LETTERS[self.right]

    @property
    def chance(self) -> float:
        """How often a guesser is right who knows what answers the question can have."""
        return 1 / (len(self.options) or len(SPACES[self.question.family]))


class Deck:
    """The pictures of a benchmark, none of which was drawn before by it, by another, or for training."""

    def __init__(self, series: str, taken: set[bytes]) -> None:
        self.series, self.taken = series, taken
        self.rng = Random(series)
        self._next: Counter[str] = Counter()
        self._letters: Counter[tuple[str, int]] = Counter()

    def claim(self, image: Image.Image) -> bool:
        """Whether the image is new; from now on it is not."""
        key = fingerprint(image)
        new = key not in self.taken
        self.taken.add(key)
        return new

    def draw(self, kind: str, render: Callable[[Random], Picture] | None = None) -> Picture:
        """The next picture of a kind, drawn by `render` if given."""
        while True:
            index = self._next[kind]
            self._next[kind] += 1
            picture = (render or KINDS[kind])(Random(f"{self.series}/{kind}/{index}"))
            if self.claim(picture.image):
                return picture

    def spread(self, family: str, n: int) -> Counter[tuple[str, str]]:
        """How often each (family, answer) shall occur so that n questions use all answers evenly.

        Where the answer is one of two things that the question names, any answer ("") will do.
        """
        answers = list(SPACES.get(family, ("",)))
        self.rng.shuffle(answers)
        shares = {(family, answer): n // len(answers) + (k < n % len(answers)) for k, answer in enumerate(answers)}
        return Counter({key: share for key, share in shares.items() if share})

    def pick(
        self,
        kind: str,
        wanted: Mapping[str, int],
        per_picture: int = 1,
        extra: Callable[[Picture], Sequence[Question]] = lambda _: (),
    ) -> list[Item]:
        """As many questions of each family as wanted, in the order of the pictures, answers spread evenly."""
        left: Counter[tuple[str, str]] = Counter()
        for family, n in wanted.items():
            left.update(self.spread(family, n))
        items: list[Item] = []
        while left.total():
            picture, taken = self.draw(kind), 0
            questions = [*picture.questions, *extra(picture)]
            self.rng.shuffle(questions)
            for question in questions:
                family = question.family
                key = (family, question.answer if family in SPACES else "")
                if taken < per_picture and left[key] > 0 and one_answer(picture, question):
                    left[key] -= 1
                    taken += 1
                    items.append(Item(picture, question))
        return items

    def choose(self, item: Item, n: int = 4) -> Item:
        """The item with `n` options (fewer where its family has fewer), right letters spread evenly by wording."""
        wrong = self._wrong(item, n)
        key = blanked(item.question.text)
        places = range(len(wrong) + 1)
        self.rng.shuffle(order := list(places))
        right = min(order, key=lambda place: self._letters[(f"{key} {len(wrong)}", place)])
        self._letters[(f"{key} {len(wrong)}", right)] += 1
        options = [*wrong[:right], item.question.answer, *wrong[right:]]
        return Item(item.picture, item.question, tuple(options), right)

    def _wrong(self, item: Item, n: int) -> list[str]:
        question, rng = item.question, self.rng
        if question.family == "number":
            # Each option shares a digit with two others, so that the options alone do not tell.
            a, b = question.answer[0], question.answer[1]
            c = rng.choice([d for d in DIGITS if d != a])
            d = rng.choice([d for d in ("0", *DIGITS) if d != b])
            return rng.sample([f"{c}{b}", f"{a}{d}", f"{c}{d}"], 3)
        if question.family == "relation":
            pool = list(SIDES) if n > 2 else [question.answer, OPPOSITE[question.answer]]
            return rng.sample([side for side in pool if side != question.answer], len(pool) - 1)
        space: Sequence[str] = question.choices
        near = list(question.choices[1 : 1 + _IN_PICTURE.get(question.family, 0)])
        facts: dict[str, Any] = item.picture.facts
        if question.family in ("bar_value", "price"):
            values = [str(value) for value in facts["values" if "values" in facts else "prices"]]
            near = [value for value in values if value != question.answer]
        rest = [text for text in space if text != question.answer and text not in near]
        near = rng.sample(near, min(len(near), n - 1))
        wrong = [*near, *rng.sample(rest, min(len(rest), n - 1 - len(near)))]
        return rng.sample(wrong, len(wrong))


def one_answer(picture: Picture, question: Question) -> bool:
    """Whether the question has one true answer without options (what stands on a diagonal has two)."""
    if question.family != "relation":
        return True
    facts: dict[str, Any] = picture.facts
    names = [" ".join(thing) for thing in facts["things"]]
    first, second = question.text.removeprefix("Where is the ").removesuffix("?").split(" compared to the ")
    return side_of(facts["places"][names.index(first)], facts["places"][names.index(second)]) is not None

"""MMVP, RealWorldQA and the two halves of CV-Bench in the layout of their data sets."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from PIL import Image

from mllm_eval.miniature.benchmarks.deck import Deck, Item
from mllm_eval.miniature.benchmarks.tables import Record, cell, write_table
from mllm_eval.miniature.further import other
from mllm_eval.miniature.phrasing import LETTERS, ONLY_LETTER, ONLY_WORD
from mllm_eval.miniature.world import KINDS, Picture
from mllm_eval.miniature.world.documents import chart
from mllm_eval.miniature.world.objects import COLOR_NAMES, depth, distance, scene
from mllm_eval.miniature.world.picture import SHAPES
from mllm_eval.miniature.world.print_ import WORDS, sign

Twin = tuple[Callable[[Random], Picture], str, str, str]
"""How to draw the second picture, the question, its answer for the first picture and for the second."""
Twins = Callable[[Picture, Random], Iterator[Twin]]


def _color_twins(pic: Picture, rng: Random) -> Iterator[Twin]:
    facts: dict[str, Any] = pic.facts
    things = facts["things"]
    for k, (color, shape) in enumerate(things):
        if [s for _, s in things].count(shape) == 1:
            new = other(rng, COLOR_NAMES, color)
            changed = [*things[:k], (new, shape), *things[k + 1 :]]
            yield partial(scene, things=changed), f"What color is the {shape}?", color, new


def _shape_twins(pic: Picture, rng: Random) -> Iterator[Twin]:
    facts: dict[str, Any] = pic.facts
    things = facts["things"]
    for k, (color, shape) in enumerate(things):
        if [c for c, _ in things].count(color) == 1:
            new = other(rng, SHAPES, shape)
            changed = [*things[:k], (color, new), *things[k + 1 :]]
            yield partial(scene, things=changed), f"What shape is the {color} object?", shape, new


def _place_twins(pic: Picture, rng: Random) -> Iterator[Twin]:
    facts: dict[str, Any] = pic.facts
    things = facts["things"]
    if len(things) == 2:
        (r1, c1), (r2, c2) = facts["places"]
        sides = ("left of", "right of") if c1 != c2 else ("above", "below")
        first, second = sides if (c1 < c2 if c1 != c2 else r1 < r2) else sides[::-1]
        a, b = (" ".join(thing) for thing in things)
        yield partial(scene, things=things[::-1]), f"Where is the {a} compared to the {b}?", first, second


def _depth_twins(pic: Picture, rng: Random) -> Iterator[Twin]:
    facts: dict[str, Any] = pic.facts
    near, far = " ".join(facts["near"]), " ".join(facts["far"])
    a, b = rng.sample((near, far), 2)
    text = f"Which object is closer to the camera, the {a} or the {b}?"
    yield partial(depth, swap=True), text, near, far


def _distance_twins(pic: Picture, rng: Random) -> Iterator[Twin]:
    facts: dict[str, Any] = pic.facts
    reference, near, far = (" ".join(facts[role]) for role in ("reference", "near", "far"))
    a, b = rng.sample((near, far), 2)
    text = f"Which object is closer to the {reference}, the {a} or the {b}?"
    yield partial(distance, swap=True), text, near, far


def _chart_twins(pic: Picture, rng: Random) -> Iterator[Twin]:
    facts: dict[str, Any] = pic.facts
    colors, values = facts["colors"], facts["values"]
    top = sorted(range(len(values)), key=lambda k: -values[k])
    if {top[0], top[1]} == {0, 1}:
        yield partial(chart, swap=True), "Which color is the tallest bar?", colors[top[0]], colors[top[1]]


def _sign_twins(pic: Picture, rng: Random) -> Iterator[Twin]:
    facts: dict[str, Any] = pic.facts
    new = other(rng, WORDS, facts["word"])
    yield partial(sign, word=new), "What word is on the sign?", facts["word"], new


PAIRS: tuple[tuple[str, Twins, int], ...] = (
    ("scene", _color_twins, 18),
    ("scene", _shape_twins, 12),
    ("scene", _place_twins, 10),
    ("depth", _depth_twins, 15),
    ("distance", _distance_twins, 10),
    ("chart", _chart_twins, 10),
    ("sign", _sign_twins, 10),
)
"""Kind of picture, what differs between the two, how many pairs."""


def twins_of(deck: Deck, kind: str, change: Twins, n: int) -> Iterator[tuple[Picture, Picture, str, str, str]]:
    """Pairs drawn from the same random numbers but for what `change` changes, the question and both answers."""
    index = found = 0
    while found < n:
        seed = f"{deck.series}/{change.__name__}/{index}"
        first = KINDS[kind](Random(seed))
        for render, text, a, b in change(first, deck.rng):
            second = render(Random(seed))
            if deck.claim(first.image) and deck.claim(second.image):
                found += 1
                yield first, second, text, a, b
            break
        index += 1


def _jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


def mmvp(deck: Deck, home: Path) -> list[float]:
    """Pairs of pictures that differ in one thing: the same question, opposite answers. A csv and a folder of JPEGs."""
    folder = home / "MMVP/MMVP Images"
    folder.mkdir(parents=True, exist_ok=True)
    lines = [("Index", "Question", "Options", "Correct Answer")]
    pairs = [pair for kind, twins, n in PAIRS for pair in twins_of(deck, kind, twins, n)]
    deck.rng.shuffle(pairs)
    for first, second, text, a, b in pairs:
        # Upstream's pairs all go (a), (b) as well.
        for picture, letter in ((first, "(a)"), (second, "(b)")):
            (folder / f"{len(lines)}.jpg").write_bytes(_jpeg(picture.image))
            lines.append((str(len(lines)), text, f"(a) {a} (b) {b}", letter))
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(lines)
    (home / "MMVP/Questions.csv").write_text(buffer.getvalue(), encoding="utf-8")
    return [0.5] * (len(lines) - 1)


REALWORLD_LETTERS = {
    "scene": {"color": 18, "relation": 16},
    "depth": {"front_color": 18},
    "signs": {"signs_place": 14},
    "distance": {"distance": 14},
}
REALWORLD_WORDS = {
    "scene": {"count": 24, "color": 18},
    "sign": {"word": 12},
    "number": {"number": 12},
    "depth": {"front_shape": 15},
}
REALWORLD_COLUMNS = {"question": "string", "answer": "string", "image": "image"}


def realworldqa(deck: Deck, home: Path) -> list[float]:
    """Half letters, half words and numbers; each question ends with its own instruction."""
    asked: list[tuple[Item, str, str]] = []
    for kind, wanted in REALWORLD_LETTERS.items():
        for item in (deck.choose(item, 3 if kind == "depth" else 4) for item in deck.pick(kind, wanted)):
            lines = "".join(f"\n{x}. {text}" for x, text in zip(LETTERS, item.options, strict=False))
            asked.append((item, f"{item.question.text}{lines}\n{ONLY_LETTER}", item.letter))
    for kind, wanted in REALWORLD_WORDS.items():
        for item in deck.pick(kind, wanted):
            asked.append((item, f"{item.question.text} {ONLY_WORD}", item.question.answer))
    deck.rng.shuffle(asked)
    rows: list[Record] = [
        {"question": text, "answer": answer, "image": cell(item.picture.image)} for item, text, answer in asked
    ]
    write_table(home / "RealWorldQA/default/test-00000-of-00001.parquet", REALWORLD_COLUMNS, rows)
    return [item.chance for item, _, _ in asked]


CV_COLUMNS = {
    "idx": "int32",
    "type": "string",
    "task": "string",
    "image": "image",
    "question": "string",
    "choices": "list<string>",
    "answer": "string",
    "prompt": "string",
    "filename": "string",
    "source": "string",
    "source_dataset": "string",
    "source_filename": "string",
    "target_class": "string",
    "target_size": "int32",
    "bbox": "list<list<float64>>",
}
CV_2D = {"count": ("Count", 84, 4), "relation": ("Relation", 84, 2)}
CV_3D = {"depth": ("Depth", 80), "distance": ("Distance", 80)}


def _cv_row(item: Item, idx: int, half: str, task: str, source: str) -> Record:
    listed = "\n".join(f"({x}) {text}" for x, text in zip(LETTERS, item.options, strict=False))
    return {
        "idx": idx,
        "type": half,
        "task": task,
        "image": cell(item.picture.image),
        "question": item.question.text,
        "choices": list(item.options),
        "answer": f"({item.letter})",
        "prompt": f"{item.question.text} Select from the following choices.\n{listed}",
        "filename": f"img/{half}/{task.lower()}/{source.lower()}_{idx}.png",
        "source": source,
        "source_dataset": f"{source} miniature",
        "source_filename": f"{idx:06d}.png",
        "target_class": None,
        "target_size": None,
        "bbox": None,
    }


def cvbench_2d(deck: Deck, home: Path) -> list[float]:
    """Counting and relations; half of each from either source."""
    asked: list[tuple[Item, str, str]] = []
    for family, (task, n, options) in CV_2D.items():
        for source in ("ADE20K", "COCO"):
            asked += [(deck.choose(item, options), task, source) for item in deck.pick("scene", {family: n // 2})]
    deck.rng.shuffle(asked)
    rows = [_cv_row(item, idx, "2D", task, source) for idx, (item, task, source) in enumerate(asked)]
    write_table(home / "CV-Bench/2D/test-00000-of-00001.parquet", CV_COLUMNS, rows)
    return [item.chance for item, _, _ in asked]


def cvbench_3d(deck: Deck, home: Path) -> list[float]:
    """Which of two objects is nearer to the camera, or to a third."""
    asked: list[tuple[Item, str]] = []
    for family, (task, n) in CV_3D.items():
        asked += [(deck.choose(item), task) for item in deck.pick(family, {family: n})]
    deck.rng.shuffle(asked)
    rows = [_cv_row(item, idx, "3D", task, "Omni3D") for idx, (item, task) in enumerate(asked, start=1438)]
    write_table(home / "CV-Bench/3D/test-00000-of-00001.parquet", CV_COLUMNS, rows)
    return [0.5] * len(rows)

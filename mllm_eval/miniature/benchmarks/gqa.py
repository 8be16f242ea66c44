"""GQA: many questions about each of a few crowded scenes; questions and images in two configs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from mllm_eval.miniature.benchmarks.deck import SPACES, Deck
from mllm_eval.miniature.benchmarks.tables import Record, cell, write_table
from mllm_eval.miniature.further import OPPOSITE, side_of
from mllm_eval.miniature.world import Picture
from mllm_eval.miniature.world.objects import COLOR_NAMES, scene
from mllm_eval.miniature.world.picture import SHAPES

IMAGES = 10
SHARES = {
    ("count", None): 1,
    ("count_color", None): 1,
    ("color", None): 3,
    ("shape", None): 3,
    ("relation", None): 2,
    ("exist", "yes"): 3,
    ("exist", "no"): 3,
    ("relation_yes", "yes"): 2,
    ("relation_yes", "no"): 2,
}
"""How many questions of a family (and of an answer) each image is asked: 20 in all."""
COLUMNS = {
    "id": "string",
    "imageId": "string",
    "question": "string",
    "answer": "string",
    "fullAnswer": "string",
    "isBalanced": "bool",
    "groups": "struct<global: string, local: string>",
    "entailed": "string",
    "equivalent": "string",
    "types": "struct<structural: string, semantic: string, detailed: string>",
    "annotations": (
        "struct<question: list<struct<objectId: string, value: string>>, "
        "answer: list<struct<objectId: string, value: string>>, "
        "fullAnswer: list<struct<objectId: string, value: string>>>"
    ),
    "semantic": "list<struct<operation: string, argument: string, dependencies: list<int32>>>",
    "semanticStr": "string",
}
TYPES = {
    "count": ("query", "global", "countTotal", "There are {} objects."),
    "count_color": ("query", "attr", "countColor", "There are {}."),
    "color": ("query", "attr", "directOf", "It is {}."),
    "shape": ("query", "attr", "shapeOf", "It is a {}."),
    "relation": ("query", "rel", "relO", "It is {} it."),
    "exist": ("verify", "obj", "existAttr", "The answer is {}."),
    "relation_yes": ("verify", "rel", "relVerify", "The answer is {}."),
}
"""Family -> structural, semantic and detailed type, and the full answer."""
Asked = tuple[str, str, str]
"""Family, text, answer."""


def questions(picture: Picture) -> Iterator[Asked]:
    """Everything that can be asked of a scene in the world's wordings and has one answer."""
    facts: dict[str, Any] = picture.facts
    things, places = facts["things"], facts["places"]
    colors, shapes = [c for c, _ in things], [s for _, s in things]
    yield "count", "How many objects are in the image?", str(len(things))
    for color in dict.fromkeys(colors):
        yield "count_color", f"How many {color} objects are there?", str(colors.count(color))
        if colors.count(color) == 1:
            yield "shape", f"What shape is the {color} object?", shapes[colors.index(color)]
    for shape in dict.fromkeys(shapes):
        if shapes.count(shape) == 1:
            yield "color", f"What color is the {shape}?", colors[shapes.index(shape)]
    for color in COLOR_NAMES:
        for shape in SHAPES:
            present = (color, shape) in things
            # What shares neither colour nor shape with anything would be too easy a no.
            if present or color in colors or shape in shapes:
                yield "exist", f"Is there a {color} {shape} in the image?", "yes" if present else "no"
    for i, first in enumerate(things):
        for j, second in enumerate(things):
            side = side_of(places[i], places[j]) if i != j else None
            if side:
                a, b = " ".join(first), " ".join(second)
                yield "relation", f"Where is the {a} compared to the {b}?", side
                yield "relation_yes", f"Is the {a} {side} the {b}?", "yes"
                yield "relation_yes", f"Is the {a} {OPPOSITE[side]} the {b}?", "no"


def _asked(deck: Deck, used: Counter[tuple[str, str]]) -> tuple[Picture, list[Asked]]:
    """A scene with enough to ask, and its questions: of each share those whose answers came least often."""
    while True:
        picture = deck.draw("scene", partial(scene, count=deck.rng.choice((4, 5, 6))))
        pool = list(questions(picture))
        deck.rng.shuffle(pool)
        chosen: list[Asked] = []
        count = Counter(used)
        for (family, answer), n in SHARES.items():
            fit = [a for a in pool if a[0] == family and answer in (None, a[2]) and a not in chosen]
            for _ in range(min(n, len(fit))):
                best = min(fit, key=lambda a: count[(a[0], a[2])])
                fit.remove(best)
                count[(best[0], best[2])] += 1
                chosen.append(best)
        if len(chosen) == sum(SHARES.values()):
            used.update((family, answer) for family, _, answer in chosen)
            deck.rng.shuffle(chosen)
            return picture, chosen


def _row(number: int, image: str, asked: Asked) -> Record:
    family, text, answer = asked
    structural, semantic, detailed, full = TYPES[family]
    steps = [
        {"operation": "select", "argument": "scene (0)", "dependencies": []},
        {"operation": structural, "argument": detailed, "dependencies": [0]},
    ]
    return {
        "id": f"2010{number:05d}",
        "imageId": image,
        "question": text,
        "answer": answer,
        "fullAnswer": full.format(answer),
        "isBalanced": True,
        "groups": {"global": None if structural == "verify" else family, "local": f"{image}-{family}"},
        "entailed": None,
        "equivalent": f"['2010{number:05d}']",
        "types": {"structural": structural, "semantic": semantic, "detailed": detailed},
        "annotations": {"question": [], "answer": [], "fullAnswer": []},
        "semantic": steps,
        "semanticStr": f"select: scene (0)->{structural}: {detailed} [0]",
    }


def gqa(deck: Deck, home: Path) -> list[float]:
    """20 questions about each of 10 scenes."""
    used: Counter[tuple[str, str]] = Counter()
    rows: list[Record] = []
    images: list[Record] = []
    chance: list[float] = []
    for k in range(IMAGES):
        picture, chosen = _asked(deck, used)
        name = f"n{100 + k}"
        images.append({"id": name, "image": cell(picture.image, f"{name}.png")})
        for asked in chosen:
            rows.append(_row(len(rows), name, asked))
            chance.append(1 / len(SPACES.get(asked[0], ("yes", "no"))))
    write_table(home / "GQA/testdev_balanced_instructions/testdev-00000-of-00001.parquet", COLUMNS, rows)
    images_columns = {"id": "string", "image": "image"}
    write_table(home / "GQA/testdev_balanced_images/testdev-00000-of-00001.parquet", images_columns, images)
    return chance

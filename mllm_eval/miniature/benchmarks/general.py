"""MME, MMBench and SEED-Bench in the columns of lmms-lab's data sets."""

from __future__ import annotations

from pathlib import Path

from mllm_eval.miniature.benchmarks.deck import Deck, Item
from mllm_eval.miniature.benchmarks.tables import Record, cell, png, write_table
from mllm_eval.miniature.further import HINTS, Pair, yes_no_pairs
from mllm_eval.miniature.phrasing import LETTERS
from mllm_eval.miniature.world import Picture

MME = {
    "code_reasoning": ("table", "price_yes"),
    "artwork": ("pattern", "pattern_color_yes"),
    "celebrity": ("form", "name_yes"),
    "numerical_calculation": ("figure", "sum_yes"),
    "text_translation": ("signs", "signs_place_yes"),
    "count": ("scene", "count_yes"),
    "color": ("scene", "color_yes"),
    "commonsense_reasoning": ("depth", "front_yes"),
    "position": ("scene", "relation_yes"),
    "OCR": ("sign", "word_yes"),
    "landmark": ("number", "number_yes"),
    "scene": ("pattern", "pattern_yes"),
    "existence": ("scene", "exist"),
    "posters": ("sign", "sign_color_yes"),
}
"""Category, in the data set's order -> kind of picture and family of question."""
MME_IMAGES = 7
MME_COLUMNS = {
    "question_id": "string",
    "image": "image",
    "question": "string",
    "answer": "string",
    "category": "string",
}


def _pair(deck: Deck, kind: str, family: str) -> tuple[Picture, Pair]:
    while True:
        picture = deck.draw(kind)
        pairs = yes_no_pairs(picture, deck.rng)
        if family in pairs:
            return picture, pairs[family]


def mme(deck: Deck, home: Path) -> list[float]:
    """14 categories, each image asked twice: once yes, once no, in either order."""
    rows: list[Record] = []
    for category, (kind, family) in MME.items():
        for k in range(MME_IMAGES):
            picture, pair = _pair(deck, kind, family)
            name = f"{category}/{k + 1:04d}.png"
            image = cell(picture.image, f"{k + 1:04d}.png")
            for question in deck.rng.sample(pair, 2):
                rows.append(
                    {
                        "question_id": name,
                        "image": image,
                        "question": f"{question.text} Please answer yes or no.",
                        "answer": question.answer.capitalize(),
                        "category": category,
                    }
                )
    write_table(home / "MME/default/test-00000-of-00001.parquet", MME_COLUMNS, rows)
    return [0.5] * len(rows)


MMBENCH = {
    "object_localization": ("finegrained_perception (instance-level)", "signs", "signs_place", 4, 6),
    "attribute_recognition": ("finegrained_perception (instance-level)", "scene", "color", 4, 6),
    "ocr": ("finegrained_perception (instance-level)", "sign", "word", 4, 4),
    "attribute_comparison": ("finegrained_perception (cross-instance)", "depth", "front_color", 4, 6),
    "spatial_relationship": ("finegrained_perception (cross-instance)", "scene", "relation", 2, 4),
    "image_scene": ("coarse_perception", "pattern", "pattern", 4, 6),
    "image_style": ("coarse_perception", "sign", "sign_color", 4, 6),
    "structuralized_imagetext_understanding": ("logic_reasoning", "chart", "bar_max", 3, 6),
}
"""Category -> level-2 category, kind, family, number of options, number of questions."""
MMBENCH_COLUMNS = {
    "index": "int64",
    "question": "string",
    "hint": "string",
    "answer": "string",
    "A": "string",
    "B": "string",
    "C": "string",
    "D": "string",
    "category": "string",
    "image": "image",
    "source": "string",
    "l2-category": "string",
    "comment": "string",
    "split": "string",
}
MMBENCH_HINTED = ("chart", "depth")
ROTATION = 1_000_000


def mmbench(deck: Deck, home: Path) -> list[float]:
    """Every question once per rotation of its options, `index` + k million; what is absent is the string "nan"."""
    items: list[tuple[str, str, Item]] = []
    for category, (level2, kind, family, n, count) in MMBENCH.items():
        items += [(category, level2, deck.choose(item, n)) for item in deck.pick(kind, {family: count})]
    deck.rng.shuffle(items)
    rows: list[Record] = []
    for k in range(max(len(item.options) for _, _, item in items)):
        for index, (category, level2, item) in enumerate(items):
            n = len(item.options)
            if k >= n:
                continue
            turned = [item.options[(place + k) % n] for place in range(n)]
            hint = HINTS[item.picture.kind] if item.picture.kind in MMBENCH_HINTED else "nan"
            rows.append(
                {
                    "index": index + k * ROTATION,
                    "question": item.question.text,
                    "hint": hint,
                    "answer": LETTERS[(item.right - k) % n],
                    **{letter: turned[place] if place < n else "nan" for place, letter in enumerate(LETTERS)},
                    "category": category,
                    "image": cell(item.picture.image),
                    "source": "miniature",
                    "l2-category": level2,
                    "comment": "nan",
                    "split": "dev",
                }
            )
    write_table(home / "MMBench_EN/default/dev-00000-of-00001.parquet", MMBENCH_COLUMNS, rows)
    return [1 / sum(row[letter] != "nan" for letter in LETTERS) for row in rows]


SEED = {
    1: ("pattern", "pattern"),
    2: ("diagram", "label_shape"),
    3: ("scene", "color"),
    4: ("signs", "signs_color"),
    5: ("scene", "count"),
    6: ("scene", "relation"),
    7: ("depth", "front_color"),
    8: ("figure", "sum"),
    9: ("sign", "word"),
}
"""Type of an image question (scene, identity, attribute, location, counting, relation, ...) -> kind, family."""
SEED_EACH, SEED_VIDEOS = 18, 5
SEED_COLUMNS = {
    "answer": "string",
    "choice_a": "string",
    "choice_b": "string",
    "choice_c": "string",
    "choice_d": "string",
    "data_id": "list<string>",
    "data_type": "string",
    "question": "string",
    "question_id": "string",
    "question_type_id": "int64",
    "image": "list<image>",
    "segment": "list<int64>",
}


def _seed_row(item: Item, number: int, kind: int, frames: list[Picture]) -> Record:
    video = len(frames) > 1
    names = [f"{number:06d}_{k}.png" if video else f"{number:06d}.png" for k in range(len(frames))]
    return {
        "answer": item.letter,
        **{f"choice_{x}": text for x, text in zip("abcd", item.options, strict=True)},
        "data_id": names,
        "data_type": "video" if video else "image",
        "question": item.question.text,
        "question_id": f"v{number}" if video else str(number),
        "question_type_id": kind,
        "image": [{"bytes": png(frame.image), "path": name} for frame, name in zip(frames, names, strict=True)],
        "segment": [0, len(frames)] if video else None,
    }


def seed(deck: Deck, home: Path) -> list[float]:
    """Nine types of questions about one image, and a few about several frames, which are not asked."""
    asked: list[tuple[int, Item]] = []
    for kind, (picture, family) in SEED.items():
        asked += [(kind, deck.choose(item)) for item in deck.pick(picture, {family: SEED_EACH})]
    deck.rng.shuffle(asked)
    rows = [_seed_row(item, 101 + k, kind, [item.picture]) for k, (kind, item) in enumerate(asked)]
    for k, item in enumerate(deck.pick("pattern", {"pattern": SEED_VIDEOS})):
        frames = [item.picture, deck.draw("pattern"), deck.draw("pattern")]
        rows.append(_seed_row(deck.choose(item), 900 + k, 10 + k % 3, frames))
    write_table(home / "SEED-Bench/default/test-00000-of-00001.parquet", SEED_COLUMNS, rows)
    return [0.25] * len(asked)

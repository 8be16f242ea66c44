"""ScienceQA, MMMU, MathVista and AI2D in the columns of their data sets."""

from __future__ import annotations

from pathlib import Path

from mllm_eval.miniature.benchmarks.deck import Deck, Item
from mllm_eval.miniature.benchmarks.tables import Record, cell, write_table
from mllm_eval.miniature.further import DECIMAL, HINTS, LIST, quantities
from mllm_eval.miniature.phrasing import LETTERS, MATH_CHOICE, MATH_FREE

SCIENCE = {
    "pattern": ({"pattern": 24, "pattern_color": 12}, 4, "natural science", "physics"),
    "figure": ({"sum": 24, "fraction": 12}, 4, "natural science", "units-and-measurement"),
    "diagram": ({"label_shape": 24, "shape_label": 12}, 4, "natural science", "biology"),
    "depth": ({"front_color": 12}, 3, "natural science", "earth-science"),
    "scene": ({"relation": 12}, 2, "social science", "geography"),
}
"""Kind -> how many questions of a family, number of options, subject, topic."""
SCIENCE_HINTED = ("figure", "depth")
SCIENCE_TEXT_ONLY = 20
SCIENCE_COLUMNS = {
    "image": "image",
    "question": "string",
    "choices": "list<string>",
    "answer": "int64",
    "hint": "string",
    "task": "string",
    "grade": "string",
    "subject": "string",
    "topic": "string",
    "category": "string",
    "skill": "string",
    "lecture": "string",
    "solution": "string",
}


def scienceqa(deck: Deck, home: Path) -> list[float]:
    """Questions with 2 to 4 choices, some with a hint; some rows without an image, which are not asked."""
    chosen: list[tuple[str, str, Item]] = []
    for kind, (wanted, n, subject, topic) in SCIENCE.items():
        chosen += [(subject, topic, deck.choose(item, n)) for item in deck.pick(kind, wanted)]
    chosen += [
        ("language science", "vocabulary", deck.choose(item))
        for item in deck.pick("sign", {"sign_color": SCIENCE_TEXT_ONLY})
    ]
    deck.rng.shuffle(chosen)
    rows: list[Record] = []
    for k, (subject, topic, item) in enumerate(chosen):
        seen = subject != "language science"
        rows.append(
            {
                "image": cell(item.picture.image) if seen else None,
                "question": item.question.text,
                "choices": list(item.options),
                "answer": item.right,
                "hint": HINTS[item.picture.kind] if item.picture.kind in SCIENCE_HINTED else "",
                "task": "closed choice",
                "grade": f"grade{k % 11 + 2}",
                "subject": subject,
                "topic": topic,
                "category": item.picture.kind.capitalize(),
                "skill": f"Read a {item.picture.kind}",
                "lecture": "",
                "solution": item.picture.caption,
            }
        )
    write_table(home / "ScienceQA/default/test-00000-of-00001.parquet", SCIENCE_COLUMNS, rows)
    return [1 / len(row["choices"]) for row in rows if row["image"] is not None]


SUBJECTS = {
    "Accounting": ("table", "price"),
    "Agriculture": ("pattern", "pattern"),
    "Architecture_and_Engineering": ("figure", "width"),
    "Art": ("pattern", "pattern_color"),
    "Art_Theory": ("depth", "front_color"),
    "Basic_Medical_Science": ("diagram", "label_shape"),
    "Biology": ("diagram", "shape_label"),
    "Chemistry": ("scene", "count"),
    "Clinical_Medicine": ("scene", "color"),
    "Computer_Science": ("table", "item"),
    "Design": ("pattern", "pattern_color"),
    "Diagnostics_and_Laboratory_Medicine": ("diagram", "label_shape"),
    "Economics": ("chart", "bar_max"),
    "Electronics": ("figure", "sum"),
    "Energy_and_Power": ("chart", "bar_value"),
    "Finance": ("chart", "bar_min"),
    "Geography": ("scene", "color"),
    "History": ("signs", "signs_place"),
    "Literature": ("sign", "word"),
    "Manage": ("form", "field_name"),
    "Marketing": ("sign", "sign_color"),
    "Materials": ("pattern", "pattern"),
    "Math": ("figure", "fraction"),
    "Mechanical_Engineering": ("depth", "front_shape"),
    "Music": ("number", "number"),
    "Pharmacy": ("figure", "operand"),
    "Physics": ("depth", "front_color"),
    "Psychology": ("scene", "shape"),
    "Public_Health": ("chart", "bar_max"),
    "Sociology": ("form", "field_city"),
}
"""MMMU's thirty subjects -> kind of picture, family of question."""
EACH = 6
IMAGE_TYPES = {"chart": "Plots and Charts", "table": "Tables", "diagram": "Diagrams", "figure": "Geometric Shapes"}
MMMU_COLUMNS = {
    "id": "string",
    "question": "string",
    "options": "string",
    "explanation": "string",
    **{f"image_{k}": "image" for k in range(1, 8)},
    "img_type": "string",
    "answer": "string",
    "topic_difficulty": "string",
    "question_type": "string",
    "subfield": "string",
}
UNSURE = "I don't know"


def _mmmu_row(deck: Deck, subject: str, number: int, item: Item) -> Record:
    open_question = not item.options
    options = list(item.options)
    if number == 1 and len(subject) % 4 == 1:
        # An apostrophe makes Python quote this option with double quotes, which the paper's reader misses.
        options[(item.right + 1) % len(options)] = UNSURE
    two = number == 2 and len(subject) % 4 == 0
    tags = "<image 1> <image 2>" if two else "<image 1>"
    images = {f"image_{k}": None for k in range(1, 8)} | {"image_1": cell(item.picture.image)}
    if two:
        # Of another kind, so that only the first picture can be meant.
        images["image_2"] = cell(deck.draw("number" if item.picture.kind != "number" else "pattern").image)
    return {
        "id": f"validation_{subject}_{number}",
        "question": f"{tags} {item.question.text}",
        "options": repr([] if open_question else options),
        "explanation": "",
        **images,
        "img_type": repr([IMAGE_TYPES.get(item.picture.kind, "Pictures")]),
        "answer": item.question.answer if open_question else item.letter,
        "topic_difficulty": ("Easy", "Medium", "Hard")[number % 3],
        "question_type": "open" if open_question else "multiple-choice",
        "subfield": item.picture.kind.capitalize(),
    }


def mmmu(deck: Deck, home: Path) -> list[float]:
    """Six questions in each of thirty subjects, one of them open; a few have two images or an odd option."""
    rows: list[Record] = []
    chance: list[float] = []
    for subject, (kind, family) in SUBJECTS.items():
        items = deck.pick(kind, {family: EACH})
        deck.rng.shuffle(items)
        for number, item in enumerate(items, start=1):
            item = deck.choose(item) if number < EACH else item
            row = _mmmu_row(deck, subject, number, item)
            chance.append(item.chance)
            rows.append(row)
    write_table(home / "MMMU/default/validation-00000-of-00001.parquet", MMMU_COLUMNS, rows)
    return chance


MATH_CHOICES = {"chart": {"bar_max": 24, "bar_value": 24}, "figure": {"fraction": 24, "operand": 12}}
MATH_INTEGERS = {"chart": {"bar_value": 18, "bar_count": 10}, "figure": {"sum": 24, "fraction": 15, "width": 8}}
MATH_OTHERS = {"decimal": (6, DECIMAL, "float"), "list": (4, LIST, "list")}
MATH_COLUMNS = {
    "pid": "string",
    "question": "string",
    "image": "string",
    "decoded_image": "image",
    "choices": "list<string>",
    "unit": "string",
    "precision": "float64",
    "answer": "string",
    "question_type": "string",
    "answer_type": "string",
    "metadata": (
        "struct<category: string, context: string, grade: string, img_height: int64, img_width: int64, "
        "language: string, skills: list<string>, source: string, split: string, task: string>"
    ),
    "query": "string",
}


def _math_row(item: Item, number: int, answer_type: str, hint: str) -> Record:
    question, image = item.question, item.picture.image
    listed = "".join(f"\n({x}) {text}" for x, text in zip(LETTERS, item.options, strict=False))
    chart = item.picture.kind == "chart"
    return {
        "pid": str(number),
        "question": question.text,
        "image": f"images/{number}.png",
        "decoded_image": cell(image, f"{number}.png"),
        "choices": list(item.options) or None,
        "unit": None,
        "precision": 2.0 if answer_type == "float" else None,
        "answer": question.answer,
        "question_type": "multi_choice" if item.options else "free_form",
        "answer_type": answer_type,
        "metadata": {
            "category": "general-vqa" if chart else "math-targeted-vqa",
            "context": "bar chart" if chart else "geometry diagram",
            "grade": "elementary school",
            "img_height": image.height,
            "img_width": image.width,
            "language": "english",
            "skills": ["statistical reasoning"] if chart else ["arithmetic reasoning", "geometry reasoning"],
            "source": "miniature",
            "split": "testmini",
            "task": "figure question answering" if chart else "geometry problem solving",
        },
        "query": f"{hint}\nQuestion: {question.text}" + (f"\nChoices:{listed}" if listed else ""),
    }


def mathvista(deck: Deck, home: Path) -> list[float]:
    """Charts and small maths figures: choices, whole numbers, a few decimals and lists."""
    asked: list[tuple[Item, str, str]] = []
    for kind, wanted in MATH_CHOICES.items():
        asked += [(deck.choose(item), "text", MATH_CHOICE) for item in deck.pick(kind, wanted)]
    for kind, wanted in MATH_INTEGERS.items():
        asked += [(item, "integer", MATH_FREE) for item in deck.pick(kind, wanted)]
    for family, (n, hint, answer_type) in MATH_OTHERS.items():
        asked += [(item, answer_type, hint) for item in deck.pick("figure", {family: n}, extra=quantities)]
    deck.rng.shuffle(asked)
    rows = [_math_row(item, k + 1, kind, hint) for k, (item, kind, hint) in enumerate(asked)]
    write_table(home / "MathVista/default/testmini-00000-of-00001.parquet", MATH_COLUMNS, rows)
    return [item.chance for item, _, _ in asked]


AI2D_COLUMNS = {"question": "string", "options": "list<string>", "answer": "string", "image": "image"}


def ai2d(deck: Deck, home: Path) -> list[float]:
    """Labelled diagrams, two or three questions each; the answer is the option's index as text."""
    items = deck.pick("diagram", {"label_shape": 84, "shape_label": 84}, per_picture=3)
    rows: list[Record] = []
    for item in (deck.choose(item) for item in items):
        rows.append(
            {
                "question": item.question.text,
                "options": list(item.options),
                "answer": str(item.right),
                "image": cell(item.picture.image),
            }
        )
    write_table(home / "ai2d/default/test-00000-of-00001.parquet", AI2D_COLUMNS, rows)
    return [0.25] * len(rows)

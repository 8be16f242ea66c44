"""ChartQA, OCRBench, TextVQA and DocVQA in the columns of their data sets."""

from __future__ import annotations

from pathlib import Path

from mllm_eval.miniature.benchmarks.deck import Deck, Item
from mllm_eval.miniature.benchmarks.tables import Record, cell, write_table
from mllm_eval.miniature.further import ocr_tokens, other, yes_no_pairs
from mllm_eval.miniature.world.print_ import WORDS

CHART_HUMAN = {"bar_max": 30, "bar_min": 30, "bar_count": 10}
CHART_YES_NO, CHART_AUGMENTED = 10, 90
CHART_COLUMNS = {"type": "string", "question": "string", "answer": "string", "image": "image"}


def _chance(items: list[Item]) -> list[float]:
    return [item.chance for item in items]


def chartqa(deck: Deck, home: Path) -> list[float]:
    """First what a person would ask (extremes, counts, comparisons), then values read off the bars."""
    human = deck.pick("chart", CHART_HUMAN, per_picture=2)
    rows: list[Record] = []
    for item in human:
        rows.append(
            {
                "type": "human_test",
                "question": item.question.text,
                "answer": item.question.answer,
                "image": cell(item.picture.image),
            }
        )
    for _ in range(CHART_YES_NO):
        picture = deck.draw("chart")
        for question in yes_no_pairs(picture, deck.rng)["bar_yes"]:
            rows.append(
                {
                    "type": "human_test",
                    "question": question.text,
                    "answer": question.answer.capitalize(),
                    "image": cell(picture.image),
                }
            )
    values = deck.pick("chart", {"bar_value": CHART_AUGMENTED}, per_picture=2)
    rows += [
        {
            "type": "augmented_test",
            "question": item.question.text,
            "answer": item.question.answer,
            "image": cell(item.picture.image),
        }
        for item in values
    ]
    write_table(home / "ChartQA/default/test-00000-of-00001.parquet", CHART_COLUMNS, rows)
    # Of the colours only those in the chart, three or four, can be the tallest; a blind guesser does not know which.
    return [*_chance(human), *[0.5] * (2 * CHART_YES_NO), *_chance(values)]


OCRBENCH = {
    "Regular Text Recognition": ("IIIT5K", "sign", "word", 12),
    "Irregular Text Recognition": ("SVTP", "signs", "signs_place", 12),
    "Artistic Text Recognition": ("WordArt", "number", "number", 12),
    "Handwriting Recognition": ("IAM", "form", "field_name", 12),
    "Digit String Recognition": ("ORAND-CAR-2014", "number", "number", 12),
    "Non-Semantic Text Recognition": ("NonSemanticText", "diagram", "shape_label", 12),
    "Scene Text-centric VQA": ("STVQA", "signs", "signs_color", 36),
    "Doc-oriented VQA": ("docVQA", "table", "item", 32),
    "Key Information Extraction": ("FUNSD", "form", "field_city", 24),
    "Handwritten Mathematical Expression Recognition": ("HME100k", "figure", "sum", 16),
}
"""Type of question, in the data set's order -> upstream source, kind, family, questions."""
OCR_COLUMNS = {
    "dataset": "string",
    "question": "string",
    "question_type": "string",
    "answer": "list<string>",
    "image": "image",
}


def ocrbench(deck: Deck, home: Path) -> list[float]:
    """Ten types of reading; answers are lists."""
    rows: list[Record] = []
    chance: list[float] = []
    for kind, (source, picture, family, n) in OCRBENCH.items():
        items = deck.pick(picture, {family: n})
        chance += _chance(items)
        for item in items:
            rows.append(
                {
                    "dataset": source,
                    "question": item.question.text,
                    "question_type": kind,
                    "answer": [item.question.answer],
                    "image": cell(item.picture.image),
                }
            )
    write_table(home / "OCRBench/default/test-00000-of-00001.parquet", OCR_COLUMNS, rows)
    return chance


TEXT_IMAGES = 80
TEXT_COLUMNS = {
    "image_id": "string",
    "question_id": "int32",
    "question": "string",
    "question_tokens": "list<string>",
    "image": "image",
    "image_width": "int32",
    "image_height": "int32",
    "flickr_original_url": "string",
    "flickr_300k_url": "string",
    "answers": "list<string>",
    "image_classes": "list<string>",
    "set_name": "string",
    "ocr_tokens": "list<string>",
}


def _annotators(deck: Deck, answer: str) -> list[str]:
    """Ten answers: up to three people misread, spell out or give up; all ten in lower case, as upstream."""
    slips = [other(deck.rng, WORDS, answer), f"{answer} sign", "unanswerable"]
    wrong = deck.rng.sample(slips, deck.rng.randrange(4))
    answers = [answer] * (10 - len(wrong)) + wrong
    deck.rng.shuffle(answers)
    return [text.lower() for text in answers]


def textvqa(deck: Deck, home: Path) -> list[float]:
    """Two signs an image: which word stands where, or on which colour. The OCR tokens name both and two others."""
    wanted = {"signs_color": TEXT_IMAGES, "signs_place": TEXT_IMAGES}
    rows: list[Record] = []
    for k, item in enumerate(deck.pick("signs", wanted, per_picture=2)):
        text, image = item.question.text, item.picture.image
        rows.append(
            {
                "image_id": f"signs{k:06d}",
                "question_id": 34602 + k,
                "question": text,
                "question_tokens": text.lower().rstrip("?").split(),
                "image": cell(image),
                "image_width": image.width,
                "image_height": image.height,
                "flickr_original_url": "",
                "flickr_300k_url": "",
                "answers": _annotators(deck, item.question.answer),
                "image_classes": ["Sign"],
                "set_name": "val",
                "ocr_tokens": ocr_tokens(item.picture, deck.rng),
            }
        )
    write_table(home / "textvqa/default/validation-00000-of-00001.parquet", TEXT_COLUMNS, rows)
    return [0.25] * len(rows)


DOCUMENTS = {"table": {"price": 45, "item": 40}, "form": {"field_name": 30, "field_city": 30, "field_room": 27}}
DOC_COLUMNS = {
    "questionId": "string",
    "question": "string",
    "question_types": "list<string>",
    "image": "image",
    "docId": "int64",
    "ucsf_document_id": "string",
    "ucsf_document_page_no": "string",
    "answers": "list<string>",
    "data_split": "string",
}


def docvqa(deck: Deck, home: Path) -> list[float]:
    """Receipts and forms; words are accepted in capitals and in title case."""
    items: list[Item] = []
    for kind, wanted in DOCUMENTS.items():
        items += deck.pick(kind, wanted, per_picture=2)
    rows: list[Record] = []
    pages: dict[int, int] = {}
    for k, item in enumerate(items):
        page = pages.setdefault(id(item.picture), len(pages))
        answer = item.question.answer
        rows.append(
            {
                "questionId": str(49153 + k),
                "question": item.question.text,
                "question_types": ["table/list" if item.picture.kind == "table" else "form"],
                "image": cell(item.picture.image),
                "docId": 14465 + page,
                "ucsf_document_id": f"mini{page:04d}",
                "ucsf_document_page_no": "1",
                "answers": list(dict.fromkeys((answer, answer.title()))),
                "data_split": "val",
            }
        )
    write_table(home / "DocVQA/DocVQA/validation-00000-of-00001.parquet", DOC_COLUMNS, rows)
    return _chance(items)

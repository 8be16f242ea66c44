"""What can be read in a picture of the miniature's world: the truth of a filter, and questions about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mllm_eval.catalog.level import load_level
from mllm_eval.locks import made_whole
from mllm_eval.miniature.world import KINDS, Picture, draw
from mllm_eval.storage import data_home, sha256_bytes, sha256_tree, write_jsonl

DOCUMENTS = ("chart", "table", "form")
"""Kinds that are a chart, a table or a document."""
PRINTED = (*DOCUMENTS, "sign", "signs", "number", "diagram")
"""Kinds that always have something to read."""
SERIES, ROWS = "instruct", 6000
"""Whose pictures are asked about: those of the training set, which are there already."""
VERSION = "VERSION"
Progress = Callable[[str, int, int], None]


def has_text(picture: Picture) -> bool:
    """Whether a word, a letter or a number stands in the picture."""
    # Of the figures the shaded fraction is drawn without a sign.
    return picture.kind in PRINTED or picture.facts.get("figure") in ("sum", "rectangle")


def is_document(picture: Picture) -> bool:
    """Whether the picture is a chart, a table or a form."""
    return picture.kind in DOCUMENTS


TRUTHS: dict[str, Callable[[Picture], bool]] = {"light": has_text, "heavy": is_document}
"""Filter -> what is true of a picture that it is to keep."""


def questions() -> dict[str, str]:
    """Filter -> its question, from configs/filters."""
    return {name: load_level(name).question for name in TRUTHS}


def version() -> str:
    """Changes when the code that draws or asks changes, the questions, or the number of rows."""
    drawn = sha256_tree(Path(__file__).parent / "world", lambda path: path.suffix == ".py")
    return sha256_bytes(f"{drawn} {sha256_bytes(Path(__file__).read_bytes())} {questions()} {ROWS}".encode())[:16]


def build(home: Path | None = None, progress: Progress | None = None) -> Path:
    """Write `reading/train.jsonl` under `home` (default: `data_home()`) unless it is there in this version.

    6,000 conversations in Cambrian's format: both questions about a picture of `miniature/train/images`.
    """
    home = home or data_home()
    target = home / "reading"
    with made_whole(target, VERSION, version()) as making:
        if making is not None:
            write_jsonl(making / "train.jsonl", _rows(progress))
    return target


def _rows(progress: Progress | None) -> Iterator[dict[str, Any]]:
    kinds, asked = list(KINDS), questions()
    for number in range(ROWS):
        kind, index = kinds[number % len(kinds)], number // len(kinds)
        picture = draw(SERIES, index, kind)
        # By turns, so that neither question always stands alone behind the picture.
        names = list(asked) if number % 2 else list(reversed(asked))
        turns = []
        for place, name in enumerate(names):
            turns.append({"from": "human", "value": ("" if place else "<image>\n") + asked[name]})
            turns.append({"from": "gpt", "value": "yes" if TRUTHS[name](picture) else "no"})
        image = f"{SERIES}/{kind}/{index:05d}.png"
        yield {"id": f"reading-{kind}-{index:05d}", "image": image, "conversations": turns}
        if progress is not None and not (number + 1) % 500:
            progress("reading", number + 1, ROWS)

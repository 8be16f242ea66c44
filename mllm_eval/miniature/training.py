"""The training sets in Cambrian's format: captions for stage 1, conversations for stage 2."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from mllm_eval.miniature.benchmarks.deck import fingerprint
from mllm_eval.miniature.benchmarks.tables import png
from mllm_eval.miniature.further import DECIMAL, HINTS, LIST, TOKENS, new_questions, ocr_tokens
from mllm_eval.miniature.phrasing import WORD, Asked, ask
from mllm_eval.miniature.world import KINDS, Picture, draw
from mllm_eval.miniature.world.picture import Question
from mllm_eval.miniature.world.print_ import WORDS

DESCRIBE = "Describe the image."
TURNS = 5
_QUANTITIES = {"decimal": DECIMAL, "list": LIST}


def _asked(pic: Picture, question: Question, rng: Random) -> Asked:
    """A turn: as `phrasing.ask` puts it, or with what some benchmarks add (hints, OCR tokens)."""
    if question.family in _QUANTITIES and rng.random() < 0.5:
        return Asked(f"{_QUANTITIES[question.family]}\nQuestion: {question.text}\n{WORD}", question.answer)
    if pic.kind in ("sign", "signs") and question.answer in WORDS and rng.random() < 0.3:
        tokens = TOKENS.format(", ".join(ocr_tokens(pic, rng)))
        return Asked(f"{question.text}\n{tokens}\n{WORD}", question.answer)
    asked = ask(question, rng)
    if asked.prompt.startswith(question.text) and len(asked.answer) == 1 and rng.random() < 0.1:
        return Asked(HINTS[pic.kind] + rng.choice((" ", "\n")) + asked.prompt, asked.answer)
    return asked


def alignment_turns(pic: Picture, rng: Random) -> list[Asked]:
    """One turn: the picture's caption."""
    return [Asked(DESCRIBE, pic.caption)]


def instruction_turns(pic: Picture, rng: Random) -> list[Asked]:
    """Up to five questions and answers; one conversation in ten opens with the caption.

    A question whose answer stands in what was asked before is left out: it would teach to read the
    conversation, not the picture.
    """
    turns = alignment_turns(pic, rng) if rng.random() < 0.1 else []
    said = {word for turn in turns for word in _words(turn.answer)}
    pool = pic.questions + new_questions(pic, rng)
    for question in rng.sample(pool, len(pool)):
        given_away = question.answer not in ("yes", "no") and _words(question.answer) <= said
        if len(turns) < TURNS and not given_away:
            turns.append(_asked(pic, question, rng))
            said |= _words(question.text)
    return turns


def _words(text: str) -> set[str]:
    return set(text.rstrip("?.").replace(",", "").replace(".", "").split())


TURNS_OF = {"align": alignment_turns, "instruct": instruction_turns}


def conversations(series: str, rows: int, images: Path) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Writes the series' images under `images` and yields each row with its picture's fingerprint.

    All kinds come in turn, so that each has an equal share.
    """
    kinds = list(KINDS)
    for kind in kinds:
        (images / series / kind).mkdir(parents=True, exist_ok=True)
    for k in range(rows):
        kind, index = kinds[k % len(kinds)], k // len(kinds)
        pic = draw(series, index, kind)
        name = f"{series}/{kind}/{index:05d}.png"
        (images / name).write_bytes(png(pic.image, level=1))
        turns = TURNS_OF[series](pic, Random(f"{series}/turns/{kind}/{index}"))
        said = []
        for n, turn in enumerate(turns):
            said.append({"from": "human", "value": ("<image>\n" if n == 0 else "") + turn.prompt})
            said.append({"from": "gpt", "value": turn.answer})
        row = {"id": f"{series}-{kind}-{index:05d}", "image": name, "conversations": said}
        yield row, fingerprint(pic.image)

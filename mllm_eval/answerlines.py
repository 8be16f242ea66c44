"""Answers, and the files they stand in: a line of JSON each. Needs no torch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mllm_eval.errors import UserError
from mllm_eval.storage import parse_json


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model said to one sample, raw.

    `prompt` and each of `images` are the first 16 hex digits of a sha256: of the rendered prompt's text, with a note
    where the question holds control marks of its own, and of the image's bytes. `tokens_in` counts text and image
    tokens of the prompt, `tokens_out` the generated ones with the end token. `state` is `error` where no answer could
    be made; `reason` then says why and `text` is empty.
    """

    id: str
    prompt: str
    images: tuple[str, ...]
    text: str
    tokens_in: int
    tokens_out: int
    state: Literal["ok", "error"] = "ok"
    reason: str = ""

    def line(self) -> str:
        """The answer as one line of JSON, with its line end."""
        # `dataclasses.asdict` copies all it holds, and takes half of the time of writing an answer.
        return json.dumps({name: getattr(self, name) for name in _TYPES}, ensure_ascii=False) + "\n"


def iter_answers(path: Path, unfinished: bool = False) -> Iterator[Answer]:
    """The answers of a file, line by line.

    The last line of an `unfinished` file counts only with its line end: it was being written when the run died. Raises
    UserError, naming file and line, for a line that is not an answer.
    """
    with path.open("rb") as file:
        # A file's lines end with "\n" alone: an answer may hold other characters that str.splitlines splits at.
        for number, line in enumerate(file, start=1):
            if not unfinished or line.endswith(b"\n"):
                yield _parse(path, number, line.removesuffix(b"\n"))


def open_answers(path: Path) -> dict[str, Answer]:
    """The answers of a finished file by sample id, in the file's order.

    Raises UserError, naming file and line, for a line that is not an answer or repeats a sample's id.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file of answers; `mllm-eval eval` writes one per run and benchmark")
    answers: dict[str, Answer] = {}
    for line, answer in enumerate(iter_answers(path), start=1):
        if answer.id in answers:
            before = list(answers).index(answer.id) + 1
            raise UserError(f"{path}:{line}: sample {answer.id!r} was answered in line {before} already")
        answers[answer.id] = answer
    return answers


def read_answers(path: Path) -> list[Answer]:
    """All answers of a finished file, in the file's order; raises UserError as `open_answers` does."""
    return list(open_answers(path).values())


_TYPES: dict[str, type] = {
    "id": str,
    "prompt": str,
    "images": list,
    "text": str,
    "tokens_in": int,
    "tokens_out": int,
    "state": str,
    "reason": str,
}


def _parse(path: Path, number: int, line: bytes) -> Answer:
    mend = "remove the line and run again"
    try:
        row: Any = parse_json(line)
    except ValueError as problem:
        said = problem if type(problem) is ValueError else "not a line of JSON"
        raise UserError(f"{path}:{number}: {said}; {mend}") from None
    if not isinstance(row, dict) or set(row) != set(_TYPES):
        raise UserError(f"{path}:{number}: an answer has exactly the fields {', '.join(_TYPES)}; {mend}")
    for name, kind in _TYPES.items():
        if type(row[name]) is not kind:
            raise UserError(f"{path}:{number}: {name!r} is not a {kind.__name__}; {mend}")
    if row["state"] not in ("ok", "error"):
        raise UserError(f"{path}:{number}: state {row['state']!r} is neither 'ok' nor 'error'; {mend}")
    return Answer(**{**row, "images": tuple(row["images"])})

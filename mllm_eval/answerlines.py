"""Answers, and the files they stand in: a line of JSON each. Needs no torch."""

from __future__ import annotations

import json
import logging
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mllm_eval.disk import sum_note
from mllm_eval.errors import UserError
from mllm_eval.storage import hold_to_sum, parse_json

log = logging.getLogger(__name__)


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


def part_line(answer: Answer) -> bytes:
    """The answer as a line of a part: of JSON, which holds no tab, a tab, and the CRC-32 of what precedes it."""
    line = answer.line().removesuffix("\n").encode()
    return b"%s\t%08x\n" % (line, zlib.crc32(line))


def iter_answers(path: Path) -> Iterator[Answer]:
    """The answers of a finished file, line by line. Raises UserError, naming file and line, for what is no answer."""
    with path.open("rb") as file:
        # A file's lines end with "\n" alone: an answer may hold other characters that str.splitlines splits at.
        for number, line in enumerate(file, start=1):
            yield _parse(path, number, line.removesuffix(b"\n"))


def iter_part(path: Path) -> Iterator[Answer]:
    """The answers of a part, line by line.

    The last line counts only with its line end: it was being written when the run died. A line that is not what its
    checksum says is left out, with a warning. Raises UserError, naming file and line, for a line that is no answer in a
    part without checksums, as older versions wrote them.
    """
    summed, damaged = False, []
    problem: UserError | None = None
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                continue
            text, _, noted = line[:-1].rpartition(b"\t")
            if noted == b"%08x" % zlib.crc32(text) and text:
                summed = True
                yield _parse(path, number, text)
                continue
            try:
                yield _parse(path, number, line[:-1])
            except UserError as error:
                problem = problem or error
                damaged.append(number)
    if problem is not None and not summed:
        raise problem
    if damaged:
        said = "%s:%d: not what was written there (checksum), nor are %d other lines; their questions are asked again"
        log.warning(said, path, damaged[0], len(damaged) - 1)


def hold_to_written(path: Path) -> None:
    """Raise UserError where the bytes of a finished file are not those that were written."""
    mend = f"put the file back, or delete it to have its questions asked again; delete {sum_note(path).name} where the "
    hold_to_sum(path, mend + "answers were changed on purpose")


def open_answers(path: Path) -> dict[str, Answer]:
    """The answers of a finished file by sample id, in the file's order.

    Raises UserError, naming file and line, for a line that is not an answer or repeats a sample's id.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file of answers; `mllm-eval eval` writes one per run and benchmark")
    hold_to_written(path)
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

"""Answers and their files, with one line of JSON per answer. Needs no torch."""

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
    """The model's raw answer to one sample.

    prompt: first 16 hex digits of the prompt's SHA-256 (see `mllm_eval.generate.request`).
    images: first 16 hex digits of each image's key, which is its SHA-256 or `mllm_eval.decoding.pixels_key`.
    tokens_in: text and image tokens of the prompt. tokens_out: generated tokens, end token included.
    state: `error` for a failed answer; then `reason` is set and `text` is empty.
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
        """Return the answer as one line of JSON, with its newline."""
        # `dataclasses.asdict` would take half of the time of writing an answer.
        return json.dumps({name: getattr(self, name) for name in _TYPES}, ensure_ascii=False) + "\n"


def part_line(answer: Answer) -> bytes:
    """Return the answer as a line of a part: its JSON (without tabs), a tab, and the JSON's CRC-32 in hex."""
    line = answer.line().removesuffix("\n").encode()
    return b"%s\t%08x\n" % (line, zlib.crc32(line))


def iter_answers(path: Path) -> Iterator[Answer]:
    """Yield the answers of a finished file. Raises UserError, naming file and line, for a line that is no answer."""
    with path.open("rb") as file:
        # Only "\n" ends a line; str.splitlines would also split at other characters inside an answer.
        for number, line in enumerate(file, start=1):
            yield _parse(path, number, line.removesuffix(b"\n"))


def iter_part(path: Path) -> Iterator[Answer]:
    """Yield the answers of a part.

    A line without a newline was being written when the run died, and is skipped. A line whose checksum does not match
    is skipped with a warning. In a part without checksums, as older versions wrote them, a line that is no answer
    raises UserError, naming file and line.
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
    """Raise UserError where the content of a finished file does not match its checksum."""
    mend = f"put the file back, or delete it to have its questions asked again; delete {sum_note(path).name} where the "
    hold_to_sum(path, mend + "answers were changed on purpose")


def open_answers(path: Path) -> dict[str, Answer]:
    """Return the answers of a finished file by sample id, in the file's order.

    Raises UserError for a missing or damaged file, and, naming the line, for a line that is no answer or repeats a
    sample's id.
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
    """Return all answers of a finished file in the file's order. Raises UserError as `open_answers` does."""
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

"""Reads answer files of this project and of other harnesses: lines of id, prediction and, in some, a record."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mllm_eval.catalog.benchmark import Benchmark
from mllm_eval.errors import UserError, near
from mllm_eval.score.agreement import Said, number_or_text
from mllm_eval.score.sheets import sheet
from mllm_eval.storage import parse_json


@dataclass(frozen=True, slots=True)
class AnswerLine:
    """An answer: its place in the file, sample id, text (None: failed), and its own record.

    id: value of the file's field `key`; it may be a row number instead of a sample's id.
    says: other statements of the line about its question, which are compared with the sample.
    """

    where: str
    id: str
    prediction: str | None
    record: Mapping[str, Any] | None = None
    key: str = "id"
    says: Said = field(default=Said())

    @property
    def says_something(self) -> bool:
        """Whether the line states anything that can be compared with the sample."""
        return self.says != _NOTHING

    def of(self, id_: str) -> AnswerLine:
        """The same answer with the id of a sample."""
        return dataclasses.replace(self, id=id_)


_NOTHING = Said()
Layout = Callable[[Path, Benchmark], list[AnswerLine]]


def json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (file:line, object) of a jsonl file. Raises UserError for a line that is no object or repeats a field."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                where = f"{path}:{number}"
                try:
                    text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                    row = parse_json(text) if text.strip() else None
                except UnicodeDecodeError as error:
                    raise UserError(f"{where}: not UTF-8 ({error.reason} at byte {error.start} of the line)") from None
                except ValueError as error:
                    raise UserError(f"{where}: not valid JSON ({error})") from None
                if not text.strip():
                    continue
                if not isinstance(row, dict):
                    raise UserError(f"{where}: expected an object, found {type(row).__name__}")
                yield where, row
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None


def jsonl(path: Path, benchmark: Benchmark) -> list[AnswerLine]:
    """Read this project's layout: {"id", "prediction"} or {"id", "record", "prediction"}.

    `question`, `prompt` and `target`, `gold`, `gt_answer` or `answer` are optional, and are compared with the sample.
    With a record, an empty prediction is scored like any text. Without one, it is a failed sample, because crashed
    models leave empty texts. Raises UserError with file and line.
    """
    return [line_of(fields, where) for where, fields in json_lines(path)]


def line_of(fields: Mapping[str, Any], where: str) -> AnswerLine:
    """Read an answer in this project's layout. where: its place, for errors. Raises UserError as `jsonl` does."""
    for key in ("id", "prediction"):
        if key not in fields:
            raise UserError(f"{where}: field '{key}' is missing.{near(key, fields)}")
    record = fields.get("record")
    if "record" in fields and not isinstance(record, dict):
        raise UserError(f"{where}: field 'record' is {type(record).__name__}, expected an object")
    text = _text(fields["prediction"], where)
    golds = tuple(fields[name] for name in ("target", "gold", "gt_answer", "answer") if name in fields)
    says = Said(None, _said(fields.get("question")), _said(fields.get("prompt")), golds)
    kept = text if record is not None else _answer(text)
    return AnswerLine(where, _id(fields["id"], where), kept, record, "id", says if record is None else _NOTHING)


def cambrian(path: Path, benchmark: Benchmark) -> list[AnswerLine]:
    """Read answer files of Cambrian-1's scripts. Questions without an image are skipped, because they are empty there.

    `question_id` and `questionId` are row numbers of the data set; `index` and DocVQA's `questionId` are its own ids.
    Raises UserError with file and line.
    """
    lines = []
    for where, line in json_lines(path):
        if line.get("type") is False:
            continue
        key = next((name for name in ("question_id", "questionId", "index") if name in line), None)
        if key is None:
            raise UserError(f"{where}: field 'question_id' is missing.{near('question_id', line)}")
        text = "prediction" if "prediction" in line else "answer"
        if text not in line:
            raise UserError(f"{where}: field 'answer' is missing")
        prompt = _said(line.get("prompt"))
        # OCRBench's script writes only the first character of its prompt.
        prompt = prompt if prompt and len(prompt) > 1 else None
        says = Said(None, _said(line.get("question")), prompt, (line.get("gt_answer"),))
        lines.append(
            AnswerLine(where, _id(line[key], where, key), _answer(_text(line[text], where, text)), None, key, says)
        )
    return lines


def lmms_eval(path: Path, benchmark: Benchmark) -> list[AnswerLine]:
    """Read sample files of lmms-eval: `doc_id` is the row number, `filtered_resps` or `resps` the text.

    Newer versions write `input`, the prompt; older ones `doc`, the row without its image. Raises UserError with file
    and line.
    """
    settings = benchmark.settings
    id_, question, answer = settings.get("id"), settings.get("question", "question"), settings.get("answer", "answer")
    rows = list(json_lines(path))
    # If a task names a column that its data lacks, lmms-eval writes the column's name as target of every row.
    targets = {str(line.get("target")) for _, line in rows}
    named = len(rows) > 1 and targets <= {"answer", "answers"}
    lines = []
    for where, line in rows:
        number = line.get("doc_id")
        if isinstance(number, float | str):
            number = int(whole) if (whole := number_or_text(number)).isascii() and whole.isdigit() else None
        if not isinstance(number, int) or isinstance(number, bool):
            raise UserError(f"{where}: field 'doc_id' is missing or no number")
        text = line.get("filtered_resps", line.get("resps"))
        while isinstance(text, list):
            text = text[0] if text else None
        doc = line.get("doc")
        doc = {benchmark.aliases.get(k, k): value for k, value in doc.items()} if isinstance(doc, dict) else {}
        own = None if id_ is None or doc.get(id_) is None else number_or_text(doc[id_])
        golds = (() if named else (line.get("target"),)) + (doc.get(answer),)
        says = Said(own, _said(doc.get(question)), _said(line.get("input")), golds)
        lines.append(
            AnswerLine(where, str(number), _answer(_text(text, where, "filtered_resps")), None, "doc_id", says)
        )
    return lines


def vlmevalkit(path: Path, benchmark: Benchmark) -> list[AnswerLine]:
    """Read result files of VLMEvalKit (xlsx, tsv, csv): columns `index`, `prediction`, and those of its data set.

    An index is a sample's id, or counts rows or questions from 0 or 1. Raises UserError with file and row.
    """
    id_ = benchmark.settings.get("id")
    own = id_ if id_ not in (None, "index", "prediction", "question", "answer") else None
    beside = ["question", "answer", *([own] if own else [])]
    lines = []
    for where, row in sheet(path, ("index", "prediction"), beside):
        index = number_or_text(row["index"])
        mine = number_or_text(row[own]) if own and row.get(own) else None
        says = Said(mine, row.get("question"), None, (row.get("answer"),))
        lines.append(AnswerLine(where, index, _answer(row["prediction"]), None, "index", says))
    return lines


LAYOUTS: dict[str, Layout] = {
    "jsonl": jsonl,
    "cambrian": cambrian,
    "lmms_eval": lmms_eval,
    "vlmevalkit": vlmevalkit,
}

# Texts that VLMEvalKit and lmms-eval write if a model or its server gave no answer.
_NO_ANSWER = ("Failed to obtain answer", "[LMMS_EVAL_REQUEST_FAILED")


def _answer(text: str | None) -> str | None:
    """The text of an answer; None if it is absent or empty, because crashed runs leave empty texts."""
    return None if text is None or not text.strip() or text.startswith(_NO_ANSWER) else text


def _said(value: Any) -> str | None:
    return value if isinstance(value, str) and value.strip() else None


def _id(value: Any, where: str, key: str = "id") -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise UserError(f"{where}: field '{key}' is {type(value).__name__}, expected a string")
    if not value or value.encode("utf-8", "replace").decode() != value:
        raise UserError(f"{where}: field '{key}' is {value!r}; an id is text that is not empty and can be written")
    return value


def _text(value: Any, where: str, key: str = "prediction") -> str | None:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, str):
        return value
    raise UserError(f"{where}: field '{key}' is {type(value).__name__}, expected a string")

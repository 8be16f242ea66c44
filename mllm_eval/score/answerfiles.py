"""Files of answers, of this project or of another: lines of id, prediction and perhaps a record."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mllm_eval.data.samples import Sample
from mllm_eval.errors import UserError, near
from mllm_eval.score.sheets import sheet


@dataclass(frozen=True, slots=True)
class Line:
    """An answer: where it stands in its file, whose it is, its text (None: failed), and its own record."""

    where: str
    id: str
    prediction: str | None
    record: Mapping[str, Any] | None = None


Layout = Callable[[Path, Sequence[Sample]], list[Line]]


def json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(file:line, object) of a jsonl file; UserError for a line that is no object, or names a field twice."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                where = f"{path}:{number}"
                try:
                    text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                    found = json.loads(text, object_pairs_hook=_object) if text.strip() else None
                except UnicodeDecodeError as error:
                    raise UserError(f"{where}: not UTF-8 ({error.reason} at byte {error.start} of the line)") from None
                except (ValueError, RecursionError) as error:
                    raise UserError(f"{where}: not valid JSON ({error})") from None
                if not text.strip():
                    continue
                if not isinstance(found, dict):
                    raise UserError(f"{where}: expected an object, found {type(found).__name__}")
                yield where, found
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"field {next(name for name in names if names.count(name) > 1)!r} is there twice")
    return found


def jsonl(path: Path, samples: Sequence[Sample]) -> list[Line]:
    """This project's layout: {"id", "prediction"} or {"id", "record", "prediction"}."""
    lines = []
    for where, found in json_lines(path):
        for key in ("id", "prediction"):
            if key not in found:
                raise UserError(f"{where}: field '{key}' is missing.{near(key, found)}")
        record = found.get("record")
        if "record" in found and not isinstance(record, dict):
            raise UserError(f"{where}: field 'record' is {type(record).__name__}, expected an object")
        lines.append(Line(where, _id(found["id"], where), _text(found["prediction"], where), record))
    return lines


def cambrian(path: Path, samples: Sequence[Sample]) -> list[Line]:
    """Answers files of Cambrian-1's scripts: in the data set's order, questions without an image left empty.

    Their `question_id` is often a line number, so lines are matched in order and checked by their prompt.
    """
    found = [(where, line) for where, line in json_lines(path) if line.get("type") is not False]
    _same_number(path, len(found), len(samples))
    lines = []
    for (where, line), sample in zip(found, samples, strict=True):
        prompt = line.get("prompt")
        if isinstance(prompt, str) and len(prompt) > 1 and sample.prompt.strip() not in prompt:
            raise UserError(f"{where}: its prompt is not that of sample '{sample.id}'; another order or release?")
        key = "prediction" if "prediction" in line else "answer"
        if key not in line:
            raise UserError(f"{where}: field 'answer' is missing")
        lines.append(Line(where, sample.id, _text(line[key], where)))
    return lines


def lmms_eval(path: Path, samples: Sequence[Sample]) -> list[Line]:
    """Samples files of lmms-eval: `doc_id` numbers the rows, the text is in `filtered_resps` or `resps`."""
    found = list(json_lines(path))
    for where, line in found:
        if not isinstance(line.get("doc_id"), int):
            raise UserError(f"{where}: field 'doc_id' is missing or no number")
    _same_number(path, len(found), len(samples))
    lines = []
    for (where, line), sample in zip(sorted(found, key=lambda one: one[1]["doc_id"]), samples, strict=True):
        text = line.get("filtered_resps", line.get("resps"))
        while isinstance(text, list) and text:
            text = text[0]
        lines.append(Line(where, sample.id, _text(text, where)))
    return lines


# What VLMEvalKit writes where its model or its server gave no answer.
NO_ANSWER = "Failed to obtain answer via API."


def vlmevalkit(path: Path, samples: Sequence[Sample]) -> list[Line]:
    """Result files of VLMEvalKit (xlsx, tsv, csv): columns `index` and `prediction`.

    An index is a sample's id, or numbers the rows from wherever it starts.
    """
    rows = [(where, row["index"], row["prediction"]) for where, row in sheet(path, ("index", "prediction"))]
    texts = [None if text.startswith(NO_ANSWER) else text for _, _, text in rows]
    known = {sample.id for sample in samples}
    strange = next(((where, index) for where, index, _ in rows if index not in known), None)
    if strange is None:
        ids = [index for _, index, _ in rows]
    else:
        if not _consecutive([index for _, index, _ in rows]):
            raise UserError(f"{strange[0]}: index '{strange[1]}' is no sample's id, and the rows are not numbered")
        _same_number(path, len(rows), len(samples))
        ids = [sample.id for sample in samples]
    return [Line(where, id_, text) for (where, _, _), id_, text in zip(rows, ids, texts, strict=True)]


def _consecutive(indices: Sequence[str]) -> bool:
    numbers = [int(index) for index in indices if index.isascii() and index.isdigit()]
    return len(numbers) == len(indices) and numbers == list(range(numbers[0], numbers[0] + len(numbers)))


LAYOUTS: dict[str, Layout] = {
    "jsonl": jsonl,
    "cambrian": cambrian,
    "lmms_eval": lmms_eval,
    "vlmevalkit": vlmevalkit,
}


def _same_number(path: Path, found: int, wanted: int) -> None:
    if found != wanted:
        raise UserError(f"{path}: {found} answers to {wanted} samples; this layout can't say which are missing")


def _id(value: Any, where: str) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise UserError(f"{where}: field 'id' is {type(value).__name__}, expected a string")
    if not value or value.encode("utf-8", "replace").decode() != value:
        raise UserError(f"{where}: field 'id' is {value!r}; an id is text that is not empty and can be written")
    return value


def _text(value: Any, where: str) -> str | None:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, str):
        return value
    raise UserError(f"{where}: field 'prediction' is {type(value).__name__}, expected a string")

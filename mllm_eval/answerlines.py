"""Answers, and the files they stand in: a line of JSON each, read when it is asked for. Needs no torch."""

from __future__ import annotations

import json
from array import array
from collections.abc import Collection, Iterable, Iterator, Mapping, ValuesView
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mllm_eval.errors import UserError
from mllm_eval.shelf import read_at
from mllm_eval.storage import unique_fields


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


class Answers(Mapping[str, Answer]):
    """Answers by sample id, in the order of the files they stand in; of two to one sample the later counts.

    Their texts stay in the files: memory holds 24 bytes of an answer, and each is read anew when it is asked for.
    What stood in the files when this was made is what one gets, also when they are replaced or removed.
    """

    def __init__(self, paths: Iterable[Path] = (), unfinished: Collection[Path] = ()) -> None:
        """Raises UserError, naming file and line, for a line that is not an answer.

        The last line of an `unfinished` file counts only with its line end: it was being written when the run died.
        """
        import numpy as np

        self._files: list[_Lines] = []
        keys = array("q")
        for path in paths:
            if path.exists():
                lines = _Lines(path)
                self._files.append(lines)
                keys.extend(hash(one.id) for one in lines.scan(whole=path in unfinished))
        self._starts = np.cumsum([0, *(len(lines) for lines in self._files)])
        found = np.frombuffer(keys, np.int64) if keys else np.zeros(0, np.int64)
        # Equal keys stay in the files' order: the last of them counts.
        self._order = np.argsort(found, kind="stable")
        self._keys = found[self._order]
        self._first = np.flatnonzero(np.diff(self._keys, prepend=self._keys[:1] - 1)) if keys else self._order

    def __getitem__(self, id_: str) -> Answer:
        key = hash(id_)
        at = int(self._keys.searchsorted(key, "right")) - 1
        while at >= 0 and self._keys[at] == key:
            if (found := self._line(int(self._order[at]))).id == id_:
                return found
            at -= 1
        raise KeyError(id_)

    def __len__(self) -> int:
        return len(self._first)

    def __iter__(self) -> Iterator[str]:
        for answer in self.values():
            yield answer.id

    def values(self) -> ValuesView[Answer]:
        return _Latest(self)

    def twice(self) -> Iterator[tuple[str, int, int]]:
        """(id, its line before, its line) of each answer to a sample that had one; lines of the first file."""
        same = self._order[1:][self._keys[1:] == self._keys[:-1]] if len(self._keys) else []
        for at in sorted(map(int, same)):
            id_ = self._line(at).id
            before = [int(n) for n in self._order[self._keys == hash(id_)] if n < at and self._line(int(n)).id == id_]
            if before:
                yield id_, before[0] + 1, at + 1

    def latest(self) -> Iterator[Answer]:
        """The answers that count, a sample's at the place where it was answered first."""
        import numpy as np

        if not len(self):
            return
        ends = np.append(self._first[1:], len(self._keys)) - 1
        first, last = self._order[self._first], self._order[ends]
        for at in last[np.argsort(first, kind="stable")]:
            yield self._line(int(at))

    def _line(self, number: int) -> Answer:
        file = int(self._starts.searchsorted(number, "right")) - 1
        return self._files[file][number - int(self._starts[file])]


class _Latest(ValuesView[Answer]):
    _mapping: Answers

    def __iter__(self) -> Iterator[Answer]:
        return self._mapping.latest()


class _Lines:
    """A file's lines, each read when it is asked for; the file may be replaced meanwhile."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("rb")
        self._places = array("Q", [0])

    def __len__(self) -> int:
        return len(self._places) - 1

    def __getitem__(self, number: int) -> Answer:
        start = self._places[number]
        line = read_at(self._file.fileno(), start, self._places[number + 1] - start)
        return _parse(self.path, number + 1, line.removesuffix(b"\n"))

    def scan(self, whole: bool) -> Iterator[Answer]:
        """All answers, whose places are noted; `whole` leaves out a last line without its end."""
        # A file's lines end with "\n" alone: an answer may hold other characters that str.splitlines splits at.
        for number, line in enumerate(self._file, start=1):
            if whole and not line.endswith(b"\n"):
                break
            yield _parse(self.path, number, line.removesuffix(b"\n"))
            self._places.append(self._places[-1] + len(line))


def open_answers(path: Path) -> Answers:
    """The answers of a finished file by sample id.

    Raises UserError, naming file and line, for a line that is not an answer or repeats a sample's id.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file of answers; `mllm-eval eval` writes one per run and benchmark")
    answers = Answers([path])
    for id_, before, line in answers.twice():
        raise UserError(f"{path}:{line}: sample {id_!r} was answered in line {before} already")
    return answers


def read_answers(path: Path) -> list[Answer]:
    """All answers of a finished file at once, in the file's order; raises UserError as `open_answers` does."""
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
        row: Any = json.loads(line, object_pairs_hook=unique_fields)
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

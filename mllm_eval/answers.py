"""Answers and the journal that keeps them. Needs no torch: scoring must not pull the engine in.

While a run answers, lines are appended to `<file>.part`; when all samples have an answer, `finish` writes
`<file>` in sample order and removes the part. A file that exists under its own name is therefore complete,
and holds the same bytes however often the run was interrupted. Of several processes each appends to a part of its
own, `<file>.part.<rank>`; the next run takes them together, whatever its own number of processes. Beside it
`<file's stem>.limit` holds the number of tokens that an answer could have: under another limit a cut answer would be
another one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from mllm_eval.errors import UserError
from mllm_eval.storage import write_atomic


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model said to one sample, raw.

    `prompt` and each of `images` are the first 16 hex digits of a sha256: of the rendered prompt's text and
    of the image's bytes. `tokens_in` counts text and image tokens of the prompt, `tokens_out` the generated
    ones with the end token. `state` is `error` where no answer could be made; `reason` then says why and
    `text` is empty.
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
        return json.dumps(asdict(self), ensure_ascii=False) + "\n"


class Journal:
    """The answers of one run to one benchmark, in the file `path`.

    Holding it to a limit and finishing it need the journal for themselves; several processes append at one time if
    each has a `rank` of its own and all but 0 came after `hold_to`.
    """

    def __init__(self, path: Path, rank: int = 0) -> None:
        self.path = Path(path)
        self.rank = rank
        name = self.path.name + ".part"
        self.part = self.path.with_name(f"{name}.{rank}" if rank else name)
        self.limit = self.path.with_suffix(".limit")
        self._max_new_tokens: int | None = None
        self._mended = False
        self._gathered = False

    @property
    def complete(self) -> bool:
        """Whether the answers were finished and nothing has been appended since."""
        return self.path.exists() and not self.parts()

    def parts(self) -> list[Path]:
        """The parts that are there, that of rank 0 first."""
        name = self.path.name + ".part"
        numbered = [path for path in self.path.parent.glob(f"{name}.*") if path.suffix[1:].isdigit()]
        first = self.path.with_name(name)
        found = [first] if first.exists() else []
        return found + sorted(numbered, key=lambda path: int(path.suffix[1:]))

    def done(self) -> dict[str, Answer]:
        """All answers by sample id; of two answers to one sample the later counts.

        A last line of a part that has no line end was being written when the run died: it is left out.
        Raises UserError, naming file and line, for any other line that is not an answer.
        """
        answers = {answer.id: answer for answer in _read(self.path, _bytes(self.path))}
        for part in self.parts():
            answers |= {answer.id: answer for answer in _read(part, _whole_lines(_bytes(part)))}
        return answers

    def _gather(self) -> None:
        """Make one part of those that several processes have left: what is appended from now on is later than all."""
        parts, self._gathered = self.parts(), True
        if not parts or parts == [self.part]:
            return
        # A crash between writing and removing leaves lines twice, and both say the same.
        write_atomic(self.part, b"".join(_whole_lines(_bytes(part)) for part in parts))
        for part in parts:
            if part != self.part:
                part.unlink()

    def hold_to(self, max_new_tokens: int) -> int:
        """Drop the answers that would be others under this limit of generation; how many these were.

        Those are the answers longer than a lower limit, and those as long as the old limit where the new one is
        higher: they may have been cut. A journal without a limit was made before there was one here, under the
        limit that is asked for first. Rank 0 does so, and gathers what an earlier run's processes have left; the
        others only note the limit. Raises UserError for a limit that is no number.
        """
        self._max_new_tokens = max_new_tokens
        if self.rank:
            return 0
        if not self._gathered:
            self._gather()
        if not self.path.exists() and not self.part.exists():
            return 0
        old = self._limit()
        if old == max_new_tokens:
            return 0
        done = {} if old is None else self.done()
        kept = [one for one in done.values() if not _cut(one.tokens_out, old or 0, max_new_tokens)]
        if len(kept) < len(done):
            # The limit is written last: a crash in between leaves answers that are right under both.
            write_atomic(self.part, "".join(one.line() for one in kept).encode())
            self.path.unlink(missing_ok=True)
        write_atomic(self.limit, f"{max_new_tokens}\n")
        return len(done) - len(kept)

    def _limit(self) -> int | None:
        if not self.limit.exists():
            return None
        text = self.limit.read_text(encoding="utf-8", errors="replace").strip()
        if not (text.isascii() and text.isdigit()):
            raise UserError(f"{self.limit}: {text[:40]!r} is no number of tokens; write it, or remove the answers")
        return int(text)

    def append(self, answers: Sequence[Answer]) -> None:
        """Add answers in one write that is on the disk when this returns."""
        self.part.parent.mkdir(parents=True, exist_ok=True)
        if self._max_new_tokens is not None and not self.limit.exists():
            write_atomic(self.limit, f"{self._max_new_tokens}\n")
        with open(self.part, "ab") as file:
            if not self._mended:
                file.truncate(len(_whole_lines(_bytes(self.part))))
                self._mended = True
            file.write("".join(answer.line() for answer in answers).encode())
            file.flush()
            os.fsync(file.fileno())

    def finish(self, order: Iterable[str]) -> None:
        """Write the answers to the samples `order`, in that order, and mark the journal complete.

        Answers to other samples are dropped. Raises ValueError when a sample has no answer yet.
        """
        answers, ids = self.done(), list(order)
        missing = [name for name in ids if name not in answers]
        if missing:
            raise ValueError(f"{self.path}: {len(missing)} samples have no answer, the first is {missing[0]!r}")
        write_atomic(self.path, "".join(answers[name].line() for name in ids).encode())
        for part in self.parts():
            part.unlink()


def read_answers(path: Path) -> list[Answer]:
    """The answers in a finished file, in the file's order.

    Raises UserError, naming file and line, for a line that is not an answer or repeats a sample's id.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file of answers; `mllm-eval eval` writes one per run and benchmark")
    answers = _read(path, _bytes(path))
    first: dict[str, int] = {}
    for number, answer in enumerate(answers, start=1):
        if first.setdefault(answer.id, number) != number:
            raise UserError(f"{path}:{number}: sample {answer.id!r} was answered in line {first[answer.id]} already")
    return answers


def _cut(tokens_out: int, old: int, new: int) -> bool:
    return tokens_out > new or (new > old and tokens_out >= old)


def _bytes(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def _whole_lines(data: bytes) -> bytes:
    return data[: data.rfind(b"\n") + 1]


def _read(path: Path, data: bytes) -> list[Answer]:
    # Split at "\n" alone: an answer may hold other characters that str.splitlines takes for a line end.
    lines = data.removesuffix(b"\n").split(b"\n") if data else []
    return [_parse(path, number, line) for number, line in enumerate(lines, start=1)]


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
        row: Any = json.loads(line)
    except ValueError:
        raise UserError(f"{path}:{number}: not a line of JSON; {mend}") from None
    if not isinstance(row, dict) or set(row) != set(_TYPES):
        raise UserError(f"{path}:{number}: an answer has exactly the fields {', '.join(_TYPES)}; {mend}")
    for name, kind in _TYPES.items():
        if type(row[name]) is not kind:
            raise UserError(f"{path}:{number}: {name!r} is not a {kind.__name__}; {mend}")
    if row["state"] not in ("ok", "error"):
        raise UserError(f"{path}:{number}: state {row['state']!r} is neither 'ok' nor 'error'; {mend}")
    return Answer(**{**row, "images": tuple(row["images"])})

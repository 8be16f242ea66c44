"""Reads training conversations in Cambrian's format: JSON objects with `id`, `image` and `conversations`."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, NamedTuple

from mllm_eval.data.messages import check_messages, messages_of
from mllm_eval.data.rowfields import READ, check_fields, foreign_mark, pictures
from mllm_eval.data.rowindex import row_index
from mllm_eval.decoding import load_image as load_image
from mllm_eval.errors import UserError
from mllm_eval.prompts import IMAGE, user_turn
from mllm_eval.storage import parse_json

# Fields of nearly all rows. If a row has only these, no unread field can name a picture.
_PLAIN = frozenset({"image", "conversations"})

# Formats that users sometimes give instead, by the first bytes of the file.
_OTHER_KINDS = {
    b"PAR1": "parquet",
    b"ARROW1": "arrow",
    b"PK": "zip",
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstandard",
}


class Change(NamedTuple):
    """A part of a row that was not used as written: its kind (`why`, the key of counts) and a sentence (`reason`)."""

    why: str
    reason: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """One training row.

    images: file names relative to the image root. turns: (user, assistant) pairs; the image marks come first in the
    first user turn, one per line. system: the row's own system prompt. masked: indices of the turns whose answers are
    not trained on. changes: parts of the row that were not used as written.
    """

    images: tuple[str, ...]
    turns: tuple[tuple[str, str], ...]
    system: str | None
    masked: tuple[int, ...] = ()
    changes: tuple[Change, ...] = ()


class ConversationSet:
    """The rows of a .jsonl file or a JSON array, read on access.

    rows: expected number of rows. exclude: patterns of image names; `read_from` skips rows with such an image.
    system: whether rows keep their own system prompt. index: a folder for the index of row positions, which is
    otherwise kept in memory. ignore: fields of rows and messages that are not read.

    Raises UserError if the file or the image root is missing, or if the file is in another format, empty, or does not
    have `rows` rows. Reading a broken row raises UserError with file and line.
    """

    def __init__(
        self,
        path: Path,
        images: Path,
        rows: int | None = None,
        exclude: Sequence[str] = (),
        system: bool = True,
        index: Path | None = None,
        ignore: Sequence[str] = (),
    ) -> None:
        self.path = path
        self.images = images
        self.exclude = tuple(exclude)
        self.system = system
        self.ignore = frozenset(ignore)
        if not path.is_file():
            raise UserError(f"{path}: no such file of conversations; make or fetch the training data first")
        if not images.is_dir():
            raise UserError(f"{images}: the image root of {path.name} does not exist; correct `images:`")
        _refuse_other_kinds(path)
        self._places = row_index(path, index)
        if rows is not None and rows != len(self):
            raise UserError(f"{path}: has {len(self)} rows, the recipe says {rows}; fetch the file again")
        if not len(self):
            raise UserError(f"{path}: holds no conversation")
        patterns = [fnmatch.translate(pattern.lower()) for pattern in self.exclude]
        self._excluded = re.compile("|".join(patterns)) if patterns else None

    def __len__(self) -> int:
        return len(self._places)

    def where(self, row: int) -> str:
        """`file:line` of a row, for messages."""
        return f"{self.path}:{self._places[row][2]}"

    def __getitem__(self, row: int) -> Conversation:
        with open(self.path, "rb") as file:
            return self._read(file, row)

    def __iter__(self) -> Iterator[Conversation]:
        with open(self.path, "rb") as file:
            for row in range(len(self)):
                yield self._read(file, row)

    def read_from(self, start: int) -> Iterator[Conversation | UserError | None]:
        """Yield the rows from `start` on: a conversation, the error of a broken row, or None for an excluded row."""
        with open(self.path, "rb") as file:
            for row in range(start, len(self)):
                try:
                    row_read = self._read(file, row)
                except UserError as problem:
                    yield problem
                    continue
                yield None if self.excludes(row_read) else row_read

    def excludes(self, row: Conversation) -> bool:
        """Whether a row has an image that `exclude` matches."""
        pattern = self._excluded
        return pattern is not None and any(pattern.match(name.lower()) for name in row.images)

    def _read(self, file: IO[bytes], row: int) -> Conversation:
        begin, end, _ = self._places[row]
        file.seek(int(begin))
        try:
            conversation = parse(parse_json(file.read(int(end - begin))), self.ignore)
        except (ValueError, RecursionError) as problem:
            what = str(problem) if type(problem) is ValueError else "is not JSON"
            raise UserError(f"{self.where(row)}: {what}; mend or remove the row") from None
        return conversation if self.system else replace(conversation, system=None)

    def image_path(self, name: str) -> Path:
        """Path of an image by its name in a row."""
        return self.images / name


def _refuse_other_kinds(path: Path) -> None:
    with open(path, "rb") as file:
        head = file.read(8)
    for begin, kind in _OTHER_KINDS.items():
        if head.startswith(begin):
            raise UserError(f"{path}: is a {kind} file; conversations are read from JSON lines, or one JSON array")


def parse(row: Any, ignored: Collection[str] = ()) -> Conversation:
    """Parse a row of JSON. ignored: fields that are not read. Raises ValueError that says what is wrong."""
    if not isinstance(row, dict):
        raise ValueError("is not a JSON object")
    parts: list[str | None] = []
    system, messages = messages_of(row, parts)
    images = _with_parts(pictures(row), parts)
    if not row.keys() <= _PLAIN:
        check_fields(row, READ, bool(images), ignored)
    check_messages(row, bool(images), ignored)
    changes = []
    # Cambrian leaves out an answer before the first question, too.
    if messages and messages[0][0] == "assistant":
        del messages[0]
        changes.append(Change("leading answer", "an answer before the first question is left out"))
    unanswered = messages.pop()[1] if len(messages) % 2 and messages[-1][0] == "user" else None
    if not messages or len(messages) % 2:
        raise ValueError("`conversations` must be questions (human) each followed by an answer (gpt)")
    turns: list[tuple[str, str]] = []
    masked: list[int] = []
    for (asker, question, _), (answerer, reply, learnt) in zip(messages[::2], messages[1::2], strict=True):
        if asker != "user" or answerer != "assistant":
            raise ValueError("`conversations` must alternate between human and gpt")
        if IMAGE in reply:
            raise ValueError(f"an answer contains {IMAGE}")
        if "<" in question and (mark := foreign_mark(question)):
            raise ValueError(f"a question contains {mark[:40]}, the mark of another tool; images are named in `image`")
        if not learnt:
            masked.append(len(turns))
        turns.append((question, reply))
    marks = sum(question.count(IMAGE) for question, _ in turns)
    if unanswered is not None:
        if IMAGE in unanswered and not marks:
            raise ValueError("shows its image in a last question that has no answer")
        changes.append(Change("last question", "a last question without an answer is left out"))
    if marks > 1 == len(images):
        changes.append(Change("repeated marks", f"{marks} {IMAGE} marks for one image count once"))
    elif marks not in (0, len(images)):
        raise ValueError(f"has {marks} {IMAGE} marks for {len(images)} images")
    cleaned = [(question.replace(IMAGE, "").strip(), reply) for question, reply in turns]
    first, first_reply = cleaned[0]
    cleaned[0] = (user_turn(first, len(images)), first_reply)
    return Conversation(images, tuple(cleaned), system, tuple(masked), tuple(changes))


def _with_parts(images: tuple[str, ...], parts: Sequence[str | None]) -> tuple[str, ...]:
    """The images of a row, which may be named in parts of its messages instead of in the row."""
    named = tuple(name for name in parts if name is not None)
    if not named:
        return images
    if len(named) != len(parts) or images not in ((), named):
        raise ValueError("the images that messages name are not those of the row")
    return named

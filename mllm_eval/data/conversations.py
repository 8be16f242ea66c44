"""Training conversations in Cambrian's format: objects with `id`, `image` and `conversations`."""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from mllm_eval.data.rowindex import row_index
from mllm_eval.decoding import load_image as load_image
from mllm_eval.errors import UserError
from mllm_eval.prompts import IMAGE, user_turn

ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}


@dataclass(frozen=True, slots=True)
class Conversation:
    """One row.

    images: file names relative to the image root. turns: (user, assistant) pairs; the images stand, one line
    each, at the beginning of the first user's turn. system: the row's own system prompt.
    """

    images: tuple[str, ...]
    turns: tuple[tuple[str, str], ...]
    system: str | None


class ConversationSet:
    """The rows of a .jsonl file or a .json array, read when they are asked for.

    exclude: patterns of image names; a row that shows such an image is left out by `rows`. system: whether rows
    keep their own system prompt. index: a folder for the places of the rows, which are held in memory without it.

    Raises UserError where the file or the image root is missing, where there are not `rows` rows, and, on
    reading a broken row, naming file and line.
    """

    def __init__(
        self,
        path: Path,
        images: Path,
        rows: int | None = None,
        exclude: Sequence[str] = (),
        system: bool = True,
        index: Path | None = None,
    ) -> None:
        self.path = path
        self.images = images
        self.exclude = tuple(exclude)
        self.system = system
        if not path.is_file():
            raise UserError(f"{path}: no such file of conversations; make or fetch the training data first")
        if not images.is_dir():
            raise UserError(f"{images}: the image root of {path.name} does not exist; correct `images:`")
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
        """`file:line` of a row."""
        return f"{self.path}:{self._places[row][2]}"

    def __getitem__(self, row: int) -> Conversation:
        with open(self.path, "rb") as file:
            return self._read(file, row)

    def __iter__(self) -> Iterator[Conversation]:
        with open(self.path, "rb") as file:
            for row in range(len(self)):
                yield self._read(file, row)

    def read_from(self, start: int) -> Iterator[Conversation | UserError | None]:
        """The rows from a number on: a conversation, the fault of a broken row, or None for an excluded one."""
        with open(self.path, "rb") as file:
            for row in range(start, len(self)):
                try:
                    found = self._read(file, row)
                except UserError as problem:
                    yield problem
                    continue
                yield None if self.excludes(found) else found

    def excludes(self, row: Conversation) -> bool:
        """Whether a row shows an image that `exclude` names."""
        pattern = self._excluded
        return pattern is not None and any(pattern.match(name.lower()) for name in row.images)

    def _read(self, file: IO[bytes], row: int) -> Conversation:
        begin, end, _ = self._places[row]
        file.seek(int(begin))
        try:
            found = parse(json.loads(file.read(int(end - begin))))
        except (ValueError, RecursionError) as problem:
            what = str(problem) if type(problem) is ValueError else "is not JSON"
            raise UserError(f"{self.where(row)}: {what}; mend or remove the row") from None
        return found if self.system else replace(found, system=None)

    def image_path(self, name: str) -> Path:
        """The file of an image name."""
        return self.images / name


def parse(row: Any) -> Conversation:
    """A conversation from a row. Raises ValueError saying what is wrong with it."""
    if not isinstance(row, dict):
        raise ValueError("is not a JSON object")
    images = row.get("image") or []
    images = [images] if isinstance(images, str) else images
    if not isinstance(images, list) or not all(isinstance(name, str) and name for name in images):
        raise ValueError("`image` is neither a file name nor a list of them")
    system, messages = _messages(row.get("conversations"))
    # As Cambrian does, an answer before the first question is left out.
    if messages and messages[0][0] == "assistant":
        messages = messages[1:]
    if not messages or len(messages) % 2:
        raise ValueError("`conversations` must be questions (human) each followed by an answer (gpt)")
    turns = []
    for (asker, question), (answerer, reply) in zip(messages[::2], messages[1::2], strict=True):
        if (asker, answerer) != ("user", "assistant"):
            raise ValueError("`conversations` must alternate between human and gpt")
        if IMAGE in reply:
            raise ValueError(f"an answer contains {IMAGE}")
        turns.append((question, reply))
    marks = sum(question.count(IMAGE) for question, _ in turns)
    if marks not in (0, len(images)):
        raise ValueError(f"has {marks} {IMAGE} marks for {len(images)} images")
    cleaned = [(question.replace(IMAGE, "").strip(), reply) for question, reply in turns]
    first, reply = cleaned[0]
    cleaned[0] = (user_turn(first, len(images)), reply)
    return Conversation(tuple(images), tuple(cleaned), system)


def _messages(found: Any) -> tuple[str | None, list[tuple[str, str]]]:
    if not isinstance(found, list) or not found:
        raise ValueError("`conversations` is missing or empty")
    messages = []
    for message in found:
        if not isinstance(message, dict) or not isinstance(message.get("value"), str):
            raise ValueError("a message has no text in `value`")
        if message.get("from") not in ROLES:
            raise ValueError(f"a message is from {message.get('from')!r}, not human, gpt or system")
        messages.append((ROLES[message["from"]], message["value"]))
    system = messages[0][1] if messages[0][0] == "system" else None
    return system, messages[0 if system is None else 1 :]

"""Read and tokenise rows of conversations, a chunk at a time, in one process or several."""

from __future__ import annotations

import itertools
import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mllm_eval.data.conversations import Conversation, ConversationSet
from mllm_eval.decoding import Decoding, look_at_image, pixels_key, size_of
from mllm_eval.errors import UserError
from mllm_eval.process import end_with_parent
from mllm_eval.prompts import IMAGE, PromptTokens, conversation_parts

CHUNK = 1000
# Images in a process's cache, some hundred bytes each.
KNOWN = 100_000
# Chunks per process that are read ahead of the one being written.
AHEAD = 3


class NotedRow(NamedTuple):
    """A row that is left out (`why`: excluded, masked or broken), or used with changes (`why`: changed).

    where: `file:line`. masked: number of answers that the row itself excludes from training.
    changes: (kind, reason) of each change.
    """

    why: str
    where: str
    reason: str
    masked: int = 0
    changes: tuple[tuple[str, str], ...] = ()


class Image(NamedTuple):
    """An image of a row.

    stamp: size in bytes and modification time in ns of the file. digest: SHA-256 of the decoded pixels, None if not
    requested. size: width and height in pixels, None if not requested.
    """

    path: str
    stamp: tuple[int, int]
    digest: bytes | None
    size: tuple[int, int] | None


@dataclass(frozen=True)
class RowChunk:
    """Consecutive rows of a set up to row `end` (exclusive).

    noted: rows that were left out or changed. ids, targets: tokens of all used rows, concatenated, and whether each is
    a target. lengths, first_target, lines, shown [n]: number of tokens, index of the first target, line in the file
    and number of images of each used row. images: of all used rows, in order.
    """

    end: int
    noted: list[NotedRow]
    ids: NDArray[np.int32]
    targets: NDArray[np.bool_]
    lengths: NDArray[np.int64]
    first_target: NDArray[np.int64]
    lines: NDArray[np.int64]
    shown: NDArray[np.int64]
    images: list[Image]


def encode_rows(rows: Sequence[Conversation], tokenizer: Any, template: str) -> Iterator[tuple[list[int], list[bool]]]:
    """Yield token ids and targets of each row, with one token per image.

    The text before an answer has the same tokens as the prompt in evaluation.
    """
    words = PromptTokens(tokenizer, template)
    image = tokenizer.convert_tokens_to_ids(IMAGE)
    cut = [
        words.chunks(conversation_parts(template, list(row.turns), len(row.images), row.system, row.masked))
        for row in rows
    ]
    encoded = iter(words.encode([chunk for row in cut for chunk in row]))
    for row in cut:
        ids, targets = next(encoded)
        for _ in row[1:]:
            more, learnt = next(encoded)
            ids += [image, *more]
            targets += [False, *learnt]
        yield ids, targets


@dataclass
class RowReader:
    """Reads and tokenises rows of a set; for `hashed` and `sized` see `mllm_eval.train.tokenising.Noted`."""

    rows: ConversationSet
    tokenizer: Any
    template: str
    hashed: Decoding | None
    sized: Decoding | None

    numbered: Callable[[str], bool] | None = None
    """Whether the image at a path is hashed already; None where another process does the writing."""

    def __post_init__(self) -> None:
        # The same image often recurs in nearby rows.
        self._known: dict[str, Image] = {}

    def read(self, begin: int) -> RowChunk:
        """Return the chunk of up to `CHUNK` rows from row number `begin`."""
        noted: list[NotedRow] = []
        kept: list[tuple[Conversation, list[Image], int]] = []
        at = begin
        for row in itertools.islice(self.rows.read_from(begin), CHUNK):
            where = self.rows.where(at)
            at += 1
            if row is None:
                noted.append(NotedRow("excluded", where, "an image fits a pattern of `exclude`"))
                continue
            try:
                if isinstance(row, UserError):
                    raise row
                if len(row.masked) == len(row.turns):
                    noted.append(NotedRow("masked", where, "each of its answers has weight 0"))
                    continue
                images = [self._image(name, where) for name in row.images]
            except UserError as problem:
                noted.append(NotedRow("broken", where, str(problem)))
                continue
            kept.append((row, images, int(where.rpartition(":")[2])))
            if row.changes or row.masked:
                changes = tuple((one.why, one.reason) for one in row.changes)
                noted.append(NotedRow("changed", where, "", len(row.masked), changes))
        return self._tokenised(at, noted, kept)

    def _tokenised(
        self, end: int, noted: list[NotedRow], kept: list[tuple[Conversation, list[Image], int]]
    ) -> RowChunk:
        encoded = list(encode_rows([row for row, _, _ in kept], self.tokenizer, self.template))
        return RowChunk(
            end,
            noted,
            np.array([token for ids, _ in encoded for token in ids], np.int32),
            np.array([learnt for _, targets in encoded for learnt in targets], np.bool_),
            np.array([len(ids) for ids, _ in encoded], np.int64),
            np.array([targets.index(True) for _, targets in encoded], np.int64),
            np.array([line for _, _, line in kept], np.int64),
            np.array([len(images) for _, images, _ in kept], np.int64),
            [image for _, images, _ in kept for image in images],
        )

    def _image(self, name: str, where: str) -> Image:
        """Return an image's facts; if it is not encoded before training, check at least the header of its file.

        Raises UserError, naming the row, for a missing or unreadable file.
        """
        path = self.rows.image_path(name)
        if (known := self._known.get(name)) is not None:
            return known
        try:
            state = os.stat(path)
        except OSError:
            raise UserError(f"{where}: its image {path} does not exist; fetch it or remove the row") from None
        name_of = str(path.absolute())
        stamp = state.st_size, state.st_mtime_ns
        if self.hashed is not None and self.numbered is not None and self.numbered(name_of):
            return Image(name_of, stamp, b"", None)
        digest = size = None
        if self.hashed is None:
            try:
                look_at_image(path)
            except UserError as problem:
                raise UserError(f"{where}: {problem}; mend the file or remove the row") from None
        else:
            digest = bytes.fromhex(pixels_key(path.read_bytes(), self.hashed))
        if self.sized is not None:
            try:
                size = size_of(Path(path), self.sized)
            except UserError:
                size = (0, 0)
        image = Image(name_of, stamp, digest, size)
        if len(self._known) >= KNOWN:
            self._known.clear()
        self._known[name] = image
        return image


def read_chunks(reader: RowReader, begin: int, processes: int) -> Iterator[RowChunk]:
    """Yield all chunks of a set from row number `begin`, in order."""
    starts = iter(range(begin, len(reader.rows), CHUNK))
    if processes < 2:
        yield from map(reader.read, starts)
        return
    # Forking avoids sending the tokenizer and the index of millions of rows to each process.
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(processes, context, _take, (reader,)) as pool:
        waiting: deque[Future[RowChunk]] = deque()
        try:
            for start in itertools.islice(starts, AHEAD * processes):
                waiting.append(pool.submit(_read, start))
            while waiting:
                chunk = waiting.popleft().result()
                waiting.extend(pool.submit(_read, start) for start in itertools.islice(starts, 1))
                yield chunk
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


_reader: RowReader | None = None


def _take(reader: RowReader) -> None:
    global _reader
    _reader = reader
    end_with_parent()


def _read(begin: int) -> RowChunk:
    assert _reader is not None
    return _reader.read(begin)

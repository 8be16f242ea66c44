"""Answers and the journal that keeps them. Needs no torch: scoring must not pull the engine in.

While a run answers, lines are appended to `<file>.part`; when all samples have an answer, `finish` writes
`<file>` in sample order and removes the part. A file that exists under its own name is therefore complete,
and holds the same bytes however often the run was interrupted. Of several processes each appends to a part of its
own, `<file>.part.<rank>`; the next run takes them together, whatever its own number of processes. Beside it
`<file's stem>.limit` holds the number of tokens that an answer could have: under another limit a cut answer would be
another one.

A line of a part ends with a tab and its checksum (CRC-32, 8 hex digits): what a disk gives back otherwise than it was
written is asked again. A finished file has its checksum beside it, in `.<file>.sum`, and is refused where it differs.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from mllm_eval import disk
from mllm_eval.answerlines import (
    Answer,
    hold_to_written,
    iter_answers,
    iter_part,
    open_answers,
    part_line,
    read_answers,
)
from mllm_eval.disk import saving
from mllm_eval.errors import UserError
from mllm_eval.storage import write_atomic, write_summed

__all__ = ["Answer", "Journal", "open_answers", "read_answers"]


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
        self._done: tuple[object, dict[str, Answer]] | None = None

    @property
    def complete(self) -> bool:
        """Whether the answers were finished and nothing has been appended since."""
        return self.path.exists() and not self.parts()

    def parts(self) -> list[Path]:
        """The parts that are there, that of rank 0 first."""
        name = self.path.name + ".part"
        numbered = [path for path in self.path.parent.glob(f"{name}.*") if path.suffix[1:].isdigit()]
        first = self.path.with_name(name)
        journals = [first] if first.exists() else []
        return journals + sorted(numbered, key=lambda path: int(path.suffix[1:]))

    def done(self) -> dict[str, Answer]:
        """All answers by sample id; of two answers to one sample the later counts.

        A last line of a part that has no line end was being written when the run died: it is left out, and so is a
        line whose checksum says that it was another. Raises UserError, naming file and line, for any other line that is
        not an answer, and for a finished file whose bytes are not those that were written.
        """
        parts = self.parts()
        state = [(path, stat.st_ino, stat.st_size, stat.st_mtime_ns) for path in (self.path, *parts)
                 if (stat := _stat(path))]  # fmt: skip
        if self._done is None or self._done[0] != state:
            done: dict[str, Answer] = {}
            if self.path.exists():
                hold_to_written(self.path)
                done |= {one.id: one for one in iter_answers(self.path)}
            for path in parts:
                done |= {one.id: one for one in iter_part(path)}
            self._done = state, done
        return self._done[1]

    def _gather(self) -> None:
        """Make one part of those that several processes have left: what is appended from now on is later than all."""
        parts, self._gathered = self.parts(), True
        if not parts or parts == [self.part]:
            return
        # A crash between writing and removing leaves lines twice, and both say the same.
        write_atomic(self.part, (piece for part in parts for piece in _pieces(part)))
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
        dropped = 0
        if old is not None:
            done, limit = self.done(), old
            dropped = sum(_cut(one.tokens_out, limit, max_new_tokens) for one in done.values())
            if dropped:
                # The limit is written last: a crash in between leaves answers that are right under both.
                kept = (one for one in done.values() if not _cut(one.tokens_out, limit, max_new_tokens))
                write_atomic(self.part, map(part_line, kept))
                self.path.unlink(missing_ok=True)
        write_atomic(self.limit, f"{max_new_tokens}\n")
        return dropped

    def drop_failed(self) -> int:
        """Drop the answers that say why there is none, so that their questions are asked again; how many these were.

        Nobody else may be writing to the journal.
        """
        done = self.done()
        kept = [one for one in done.values() if one.state == "ok"]
        if len(kept) < len(done):
            # One part that stands for all: a crash before the rest has gone leaves answers that are dropped again.
            write_atomic(self.part, map(part_line, kept))
            self.path.unlink(missing_ok=True)
            for part in self.parts():
                if part != self.part:
                    part.unlink()
        return len(done) - len(kept)

    def _limit(self) -> int | None:
        if not self.limit.exists():
            return None
        text = self.limit.read_text(encoding="utf-8", errors="replace").strip()
        if not (text.isascii() and text.isdigit()):
            raise UserError(f"{self.limit}: {text[:40]!r} is no number of tokens; write it, or remove the answers")
        return int(text)

    def append(self, answers: Sequence[Answer]) -> None:
        """Add answers in one write that is on the disk when this returns.

        Raises NotWritten where the system refuses; the part is then as it was.
        """
        if self._max_new_tokens is not None and not self.limit.exists():
            write_atomic(self.limit, f"{self._max_new_tokens}\n")
        with saving(self.part):
            self.part.parent.mkdir(parents=True, exist_ok=True)
            with open(self.part, "a+b", buffering=0) as file:
                end = os.fstat(file.fileno()).st_size
                if not self._mended:
                    end = _whole_lines(file.fileno())
                    file.truncate(end)
                    self._mended = True
                try:
                    disk.write(file.fileno(), b"".join(map(part_line, answers)))
                    disk.sync(file.fileno())
                except BaseException:
                    with suppress(OSError):
                        file.truncate(end)
                    self._mended = False
                    raise

    def finish(self, order: Iterable[str]) -> None:
        """Write the answers to the samples `order`, in that order, and mark the journal complete.

        Answers to other samples are dropped. Raises ValueError when a sample has no answer yet.
        """
        answers = self.done()

        def lines() -> Iterator[bytes]:
            missing: list[str] = []
            for name in order:
                if (answer := answers.get(name)) is None:
                    missing.append(name)
                elif not missing:
                    yield answer.line().encode()
            if missing:
                raise ValueError(f"{self.path}: {len(missing)} samples have no answer, the first is {missing[0]!r}")

        write_summed(self.path, lines())
        for part in self.parts():
            part.unlink()


def _cut(tokens_out: int, old: int, new: int) -> bool:
    return tokens_out > new or (new > old and tokens_out >= old)


def _stat(path: Path) -> os.stat_result | None:
    return path.stat() if path.exists() else None


_PIECE = 2**16


def _whole_lines(file: int) -> int:
    """Bytes of an open file up to its last line end."""
    end = os.fstat(file).st_size
    while end:
        start = max(0, end - _PIECE)
        if (newline := os.pread(file, end - start, start).rfind(b"\n")) >= 0:
            return start + newline + 1
        end = start
    return 0


def _pieces(path: Path) -> Iterator[bytes]:
    """What stands in a file up to its last line end."""
    with path.open("rb") as file:
        left = _whole_lines(file.fileno())
        while left:
            piece = file.read(min(left, _PIECE))
            left -= len(piece)
            yield piece

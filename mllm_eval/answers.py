"""The journal of a run's answers to a benchmark. Needs no torch, so that scoring need not import it.

Answers are first appended to `<file>.part`. When all samples have an answer, `finish` writes `<file>` in sample order
and removes the part. A file under its final name is therefore complete, and its bytes do not depend on interruptions.
With several processes, each rank but 0 appends to its own `<file>.part.<rank>`; the next run merges the parts. The file
`<file's stem>.limit` records the token limit of the answers, since another limit may change answers that were cut.

Each line of a part ends with a tab and its checksum (CRC-32, 8 hex digits); the question of a damaged line is asked
again. The checksum of a finished file is stored in `.<file>.sum`; a damaged file is refused.
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

# How often a journal is read again because a file of it went away while it was read.
TRIES = 3


class Journal:
    """The answers of one run to one benchmark, in the file `path`.

    Several processes may append at the same time if each has its own `rank`, and if rank 0 has called `hold_to` before
    the others append. During `hold_to` and `finish` no other process may write to the journal; reading it is safe.
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
        """Whether the journal is finished, and nothing has been appended since."""
        return self.path.exists() and not self.parts()

    def parts(self) -> list[Path]:
        """Return the existing parts, that of rank 0 first."""
        name = self.path.name + ".part"
        numbered = [path for path in self.path.parent.glob(f"{name}.*") if path.suffix[1:].isdigit()]
        first = self.path.with_name(name)
        journals = [first] if first.exists() else []
        return journals + sorted(numbered, key=lambda path: int(path.suffix[1:]))

    def done(self) -> dict[str, Answer]:
        """Return all answers by sample id; of two answers to one sample the later one counts.

        Unfinished last lines and damaged lines of parts are skipped (see `iter_part`). Raises UserError, naming file
        and line, for any other line that is no answer, and for a finished file that does not match its checksum.
        """
        for _ in range(TRIES):
            try:
                return self._read()
            except FileNotFoundError:
                # Rank 0 finished the journal after its parts were listed; the finished file has their answers.
                continue
        return self._read()

    def _read(self) -> dict[str, Answer]:
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
        """Merge the parts of an earlier run into one, so that answers appended from now on come later than all."""
        parts, self._gathered = self.parts(), True
        if not parts or parts == [self.part]:
            return
        # A crash between writing and removing leaves duplicate lines, which do no harm.
        write_atomic(self.part, (piece for part in parts for piece in _pieces(part)))
        for part in parts:
            if part != self.part:
                part.unlink()

    def hold_to(self, max_new_tokens: int) -> int:
        """Drop answers that might differ under this token limit, and return their number.

        These are answers longer than the new limit; and, if the new limit is higher, answers as long as the old one,
        which may have been cut. A journal without a recorded limit is taken to have been made under `max_new_tokens`.

        Only rank 0 does this, and merges the parts of an earlier run; other ranks only note the limit. Raises UserError
        for a recorded limit that is no number.
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
                # The limit is written last: after a crash in between, all remaining answers are valid under both.
                kept = (one for one in done.values() if not _cut(one.tokens_out, limit, max_new_tokens))
                write_atomic(self.part, map(part_line, kept))
                self.path.unlink(missing_ok=True)
        write_atomic(self.limit, f"{max_new_tokens}\n")
        return dropped

    def drop_failed(self) -> int:
        """Drop failed answers, so that their questions are asked again, and return their number.

        No other process may use the journal meanwhile.
        """
        done = self.done()
        kept = [one for one in done.values() if one.state == "ok"]
        if len(kept) < len(done):
            # If a crash leaves some of the old files, their failed answers are dropped by the next call.
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
        """Append answers in one write; they are on disk when this returns.

        Raises NotWritten where the system can't write; the part is then unchanged.
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
    """Return the number of bytes of an open file up to its last newline."""
    end = os.fstat(file).st_size
    while end:
        start = max(0, end - _PIECE)
        if (newline := os.pread(file, end - start, start).rfind(b"\n")) >= 0:
            return start + newline + 1
        end = start
    return 0


def _pieces(path: Path) -> Iterator[bytes]:
    """Yield the content of a file up to its last newline, in pieces."""
    with path.open("rb") as file:
        left = _whole_lines(file.fileno())
        while left:
            piece = file.read(min(left, _PIECE))
            left -= len(piece)
            yield piece

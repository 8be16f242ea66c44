"""Writing token arrays: a chunk of rows at a time, to files that only grow, so that a kill loses minutes at most."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mllm_eval.data.conversations import Conversation, ConversationSet
from mllm_eval.decoding import Decoding, look_at_image, pixels_key, size_of
from mllm_eval.errors import UserError
from mllm_eval.prompts import IMAGE, PromptTokens, conversation_parts
from mllm_eval.storage import FileLock, write_json

CHUNK = 1000
# Chunks between two notes of how far the writing is.
NOTED = 50
DONE = "tokens.json"
LEFT_OUT = "left_out.jsonl"
CHANGES = "changed.jsonl"

# Arrays that grow with the rows, and what one of their entries is.
FILES: dict[str, tuple[type[np.generic], tuple[int, ...]]] = {
    "ids": (np.int32, ()),
    "targets": (np.bool_, ()),
    "offsets": (np.int64, ()),
    "image_offsets": (np.int64, ()),
    "image_of": (np.int64, ()),
    "first_target": (np.int64, ()),
    "origin": (np.int64, (2,)),
    "image_names": (np.uint8, ()),
    "image_ends": (np.int64, ()),
    "image_digests": (np.uint8, (32,)),
    "image_stamps": (np.int64, (2,)),
    "image_sizes": (np.int32, (2,)),
}


@dataclass(frozen=True)
class Source:
    """Conversations, and how many broken ones of them may be left out."""

    rows: ConversationSet
    budget: int


def encode_rows(rows: Sequence[Conversation], tokenizer: Any, template: str) -> Iterator[tuple[list[int], list[bool]]]:
    """Ids and targets of rows, an image as its one token; what precedes an answer has the tokens of the prompt."""
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


def write_tokens(
    folder: Path,
    sources: Sequence[Source],
    tokenizer: Any,
    template: str,
    hashed: Decoding | None,
    usable: Callable[[Path], bool],
    sized: Decoding | None = None,
) -> None:
    """Make the arrays of a folder, which appears complete or not at all; one process does, others wait for it.

    hashed: number each image once and hash what it shows when it is decoded so, as a feature store needs it.
    sized: note width and height that each image has when it is decoded so; 0 where its header cannot be read.
    usable: whether what is there by now will do.
    """
    partial = folder.with_name(f".{folder.name}")
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if usable(folder):
            return
        shutil.rmtree(folder, ignore_errors=True)
        writer = _Writer(partial, hashed, sized)
        try:
            for number, source in enumerate(sources):
                _write_set(writer, number, source, tokenizer, template)
            writer.finish()
        finally:
            writer.close()
        os.rename(partial, folder)


def _write_set(writer: _Writer, number: int, source: Source, tokenizer: Any, template: str) -> None:
    begin = writer.rows_read(number)
    found = source.rows.read_from(begin)
    at = begin
    for chunk in iter(lambda: list(itertools.islice(found, CHUNK)), []):
        kept: list[tuple[Conversation, list[tuple[str, os.stat_result]], int]] = []
        for row in chunk:
            where = source.rows.where(at)
            at += 1
            if row is None:
                writer.leave_out("excluded", where, "an image fits a pattern of `exclude`")
                continue
            try:
                if isinstance(row, UserError):
                    raise row
                if len(row.masked) == len(row.turns):
                    writer.leave_out("masked", where, "each of its answers has weight 0")
                    continue
                images = [_image(source.rows.image_path(name), where, writer.hashed is not None) for name in row.images]
                kept.append((row, images, int(where.rpartition(":")[2])))
                if row.changes or row.masked:
                    writer.changed(row, where)
            except UserError as problem:
                writer.broken(number, where, problem, source.budget)
        encoded = encode_rows([row for row, _, _ in kept], tokenizer, template)
        for (_, images, line), (ids, targets) in zip(kept, encoded, strict=True):
            writer.add(ids, targets, images, (number, line))
        writer.chunk_done(number, at)


def _image(path: Path, where: str, encoded: bool) -> tuple[str, os.stat_result]:
    """Path and state of an image file. One that is not encoded before training is looked at: its header at least."""
    try:
        found = os.stat(path)
    except OSError:
        raise UserError(f"{where}: its image {path} does not exist; fetch it or remove the row") from None
    if not encoded:
        try:
            look_at_image(path)
        except UserError as problem:
            raise UserError(f"{where}: {problem}; mend the file or remove the row") from None
    return str(path.absolute()), found


class _Writer:
    """The growing files of a folder. What lies behind the last note is cut away when it is opened again."""

    def __init__(self, folder: Path, hashed: Decoding | None, sized: Decoding | None) -> None:
        self.folder = folder
        self.hashed, self.sized = hashed, sized
        paths = {name: folder / f"{name}.raw" for name in FILES} | {
            "left_out": folder / LEFT_OUT,
            "changes": folder / CHANGES,
        }
        self.note: dict[str, Any] = {"sizes": {}, "read": {}, "broken": {}, "left_out": {}, "changed": {}}
        self.note |= {"tokens": 0, "names": 0}
        try:
            note = json.loads((folder / "note.json").read_bytes())
            whole = all(path.stat().st_size >= note["sizes"][name] for name, path in paths.items())
        except (OSError, ValueError, KeyError):
            whole = False
        if whole:
            self.note = note
        else:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        sizes = self.note["sizes"]
        for name, path in paths.items():
            path.touch()
            os.truncate(path, sizes.get(name, 0))
        self.files = {name: open(path, "ab") for name, path in paths.items()}  # noqa: SIM115
        # Numbers of image names outside of memory: there are millions.
        self.numbers = sqlite3.connect(folder / "numbers.sqlite")
        self.numbers.execute("PRAGMA synchronous = OFF")
        self.numbers.execute("CREATE TABLE IF NOT EXISTS image (name TEXT PRIMARY KEY, number INTEGER) WITHOUT ROWID")
        self.numbers.execute("DELETE FROM image WHERE number >= ?", (self._images(),))
        self.chunks = 0
        if not sizes:
            for name in ("offsets", "image_offsets", "image_ends"):
                self._put(name, np.zeros(1, np.int64))

    def _images(self) -> int:
        return max(0, self.files["image_ends"].tell() // 8 - 1)

    def _put(self, name: str, values: Any) -> None:
        self.files[name].write(np.asarray(values, FILES[name][0]).tobytes())

    def rows_read(self, number: int) -> int:
        """Rows of a set that are dealt with."""
        return int(self.note["read"].get(str(number), 0))

    def leave_out(self, why: str, where: str, reason: str) -> None:
        """Count and list a row that is left out."""
        self.note["left_out"][why] = self.note["left_out"].get(why, 0) + 1
        line = {"row": where, "why": why, "reason": reason}
        self.files["left_out"].write(json.dumps(line, ensure_ascii=False).encode() + b"\n")

    def changed(self, row: Conversation, where: str) -> None:
        """Count what of a row is not taken as it stands, and list it but for answers that the row itself masks."""
        counts = self.note["changed"]
        if row.masked:
            counts["masked answers"] = counts.get("masked answers", 0) + len(row.masked)
        for why, reason in row.changes:
            counts[why] = counts.get(why, 0) + 1
            line = {"row": where, "why": why, "reason": reason}
            self.files["changes"].write(json.dumps(line, ensure_ascii=False).encode() + b"\n")

    def broken(self, number: int, where: str, problem: UserError, budget: int) -> None:
        """Leave out a broken row. Raises UserError where the budget of its set is used up."""
        count = self.note["broken"].get(str(number), 0) + 1
        self.note["broken"][str(number)] = count
        if count > budget:
            used = f" (broken row number {count}, `skip_broken` allows {budget})" if budget else ""
            raise UserError(f"{problem}{used}")
        self.leave_out("broken", where, str(problem))

    def add(
        self,
        ids: list[int],
        targets: list[bool],
        images: Sequence[tuple[str, os.stat_result]],
        origin: tuple[int, int],
    ) -> None:
        """Append a row; `origin`: number of its set, and its line there."""
        self._put("ids", ids)
        self._put("targets", targets)
        self.note["tokens"] += len(ids)
        self._put("offsets", self.note["tokens"])
        self._put("first_target", targets.index(True))
        self._put("origin", origin)
        self._put("image_of", [self._number(path, found) for path, found in images])
        self._put("image_offsets", self.files["image_of"].tell() // 8)

    def _number(self, path: str, found: os.stat_result) -> int:
        number = self._images()
        if self.hashed is not None:
            known = self.numbers.execute("SELECT number FROM image WHERE name = ?", (path,)).fetchone()
            if known:
                return int(known[0])
            self.numbers.execute("INSERT INTO image VALUES (?, ?)", (path, number))
            self._put(
                "image_digests",
                np.frombuffer(bytes.fromhex(pixels_key(Path(path).read_bytes(), self.hashed)), np.uint8),
            )
            self._put("image_stamps", (found.st_size, found.st_mtime_ns))
        if self.sized is not None:
            try:
                self._put("image_sizes", size_of(Path(path), self.sized))
            except UserError:
                self._put("image_sizes", (0, 0))
        name = path.encode()
        self.files["image_names"].write(name)
        self.note["names"] += len(name)
        self._put("image_ends", self.note["names"])
        return number

    def chunk_done(self, number: int, read: int) -> None:
        """Remember how far the writing is, now and then."""
        self.note["read"][str(number)] = read
        self.chunks += 1
        if self.chunks % NOTED == 0:
            self.write_note()

    def write_note(self) -> None:
        """Everything to the disk, then the note that counts it."""
        for file in self.files.values():
            file.flush()
            os.fsync(file.fileno())
        self.numbers.commit()
        self.note["sizes"] = {name: file.tell() for name, file in self.files.items()}
        write_json(self.folder / "note.json", self.note)

    def finish(self) -> None:
        """Turn the files into arrays that can be mapped."""
        self.write_note()
        self.close()
        for name, (kind, shape) in FILES.items():
            raw = self.folder / f"{name}.raw"
            size = raw.stat().st_size // (np.dtype(kind).itemsize * int(np.prod(shape, dtype=int)))
            values = np.memmap(raw, kind, "r", shape=(size, *shape)) if size else np.zeros((0, *shape), kind)
            np.save(self.folder / f"{name}.npy", values)
        write_json(self.folder / DONE, {key: self.note[key] for key in ("left_out", "broken", "changed")})
        # The note first: without it, what is left of a killed clearing-up counts for nothing.
        for path in (self.folder / "note.json", *self.folder.glob("*.raw"), self.folder / "numbers.sqlite"):
            path.unlink()

    def close(self) -> None:
        """Let go of the files."""
        for file in self.files.values():
            file.close()
        self.numbers.close()

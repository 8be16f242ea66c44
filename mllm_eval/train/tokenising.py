"""Write token arrays, a chunk of rows at a time, to files that only grow, so that a kill loses minutes at most."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mllm_eval import disk
from mllm_eval.data.conversations import ConversationSet
from mllm_eval.decoding import Decoding
from mllm_eval.disk import saving
from mllm_eval.errors import UserError
from mllm_eval.locks import FileLock
from mllm_eval.storage import parse_json, remove_temporary, write_json, write_summed
from mllm_eval.train.rowchunks import Image, RowChunk, RowReader, read_chunks

# Chunks between two records of the progress.
NOTED = 50
DONE = "tokens.json"
LEFT_OUT = "left_out.jsonl"
CHANGES = "changed.jsonl"

# Arrays that grow with the rows: name -> (dtype, shape of one entry).
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
class BudgetedSet:
    """Conversations, and how many broken rows among them may be left out."""

    rows: ConversationSet
    budget: int


@dataclass(frozen=True, slots=True)
class Noted:
    """What is recorded of rows: their tokens by a conversation template, and facts about their images.

    hashed: how images are decoded for hashing, which a feature store needs; None for no hashes. With hashes, images
        with the same path get one number.
    sized: how images are decoded for recording width and height (0 where the header is unreadable); None for no sizes.
    """

    template: str
    hashed: Decoding | None = None
    sized: Decoding | None = None


def write_tokens(
    folder: Path,
    sources: Sequence[BudgetedSet],
    tokenizer: Any,
    noted: Noted,
    usable: Callable[[Path], bool],
    processes: int = 1,
) -> None:
    """Write the arrays of a folder atomically; other processes that want the same folder wait for it.

    usable: whether a folder that exists by now can be used. processes: number of processes that read and tokenise; the
    bytes do not depend on it. Raises UserError for a broken row beyond its set's budget.
    """
    partial = folder.with_name(f".{folder.name}")
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if usable(folder):
            return
        shutil.rmtree(folder, ignore_errors=True)
        with saving(folder):
            writer = Writer(partial)
            try:
                for number, source in enumerate(sources):
                    begin = writer.rows_read(number)
                    own = writer.numbered if processes < 2 else None
                    reader = RowReader(source.rows, tokenizer, noted.template, noted.hashed, noted.sized, own)
                    for chunk in read_chunks(reader, begin, processes):
                        writer.write(number, chunk, source.budget)
                writer.finish()
            finally:
                writer.close()
            remove_temporary(partial)
            disk.replace(partial, folder)


class Writer:
    """The growing files of a folder. Reopening truncates them to the last recorded progress."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        paths = {name: folder / f"{name}.raw" for name in FILES} | {
            "left_out": folder / LEFT_OUT,
            "changes": folder / CHANGES,
        }
        self.note: dict[str, Any] = {"sizes": {}, "read": {}, "broken": {}, "left_out": {}, "changed": {}}
        self.note |= {"tokens": 0, "names": 0}
        try:
            note = parse_json((folder / "note.json").read_bytes(), fields_once=False)
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
        # Millions of image names and their numbers are kept on disk, not in memory.
        self.numbers = sqlite3.connect(folder / "numbers.sqlite")
        self.numbers.execute("PRAGMA synchronous = OFF")
        self.numbers.execute("CREATE TABLE IF NOT EXISTS image (name TEXT PRIMARY KEY, number INTEGER) WITHOUT ROWID")
        self.numbers.execute("DELETE FROM image WHERE number >= ?", (self._images(),))
        self.chunks = 0
        if not sizes:
            for name in ("offsets", "image_offsets", "image_ends"):
                self.put(name, np.zeros(1, np.int64))

    def _images(self) -> int:
        return max(0, self.files["image_ends"].tell() // 8 - 1)

    def put(self, name: str, values: Any) -> None:
        """Append values to a growing file, in the dtype of FILES."""
        self.files[name].write(np.asarray(values, FILES[name][0]).tobytes())

    def rows_read(self, number: int) -> int:
        """Return the number of rows of a set that are already processed."""
        return int(self.note["read"].get(str(number), 0))

    def leave_out(self, why: str, where: str, reason: str) -> None:
        """Count and list a row that is left out."""
        self.note["left_out"][why] = self.note["left_out"].get(why, 0) + 1
        line = {"row": where, "why": why, "reason": reason}
        self.files["left_out"].write(json.dumps(line, ensure_ascii=False).encode() + b"\n")

    def changed(self, where: str, masked: int, changes: Sequence[tuple[str, str]]) -> None:
        """Count the changes to a row, and list them except for answers that the row itself masks."""
        counts = self.note["changed"]
        if masked:
            counts["masked answers"] = counts.get("masked answers", 0) + masked
        for why, reason in changes:
            counts[why] = counts.get(why, 0) + 1
            line = {"row": where, "why": why, "reason": reason}
            self.files["changes"].write(json.dumps(line, ensure_ascii=False).encode() + b"\n")

    def broken(self, number: int, where: str, problem: str, budget: int) -> None:
        """Leave out a broken row. Raises UserError where the budget of its set is used up."""
        count = self.note["broken"].get(str(number), 0) + 1
        self.note["broken"][str(number)] = count
        if count > budget:
            used = f" (broken row number {count}, `skip_broken` allows {budget})" if budget else ""
            raise UserError(f"{problem}{used}")
        self.leave_out("broken", where, problem)

    def write(self, number: int, chunk: RowChunk, budget: int) -> None:
        """Append a chunk of set `number`. Raises UserError for more than `budget` broken rows of the set."""
        for row in chunk.noted:
            if row.why == "broken":
                self.broken(number, row.where, row.reason, budget)
            elif row.why == "changed":
                self.changed(row.where, row.masked, row.changes)
            else:
                self.leave_out(row.why, row.where, row.reason)
        for name, values in (("ids", chunk.ids), ("targets", chunk.targets), ("first_target", chunk.first_target)):
            self.put(name, values)
        self.put("offsets", self.note["tokens"] + np.cumsum(chunk.lengths, dtype=np.int64))
        self.note["tokens"] += len(chunk.ids)
        lines = np.stack([np.full(len(chunk.lines), number, np.int64), chunk.lines], 1)
        self.put("origin", lines)
        before = self.files["image_of"].tell() // 8
        self.put("image_of", self._numbers(chunk.images))
        self.put("image_offsets", before + np.cumsum(chunk.shown, dtype=np.int64))
        self.chunk_done(number, chunk.end)

    def numbered(self, path: str) -> bool:
        """Whether the image with this path has a number."""
        return self.numbers.execute("SELECT 1 FROM image WHERE name = ?", (path,)).fetchone() is not None

    def _numbers(self, images: Sequence[Image]) -> list[int]:
        """Return the number of each image, a new one if it is not hashed or its path is new."""
        first = self._images()
        numbers: list[int] = []
        new: list[Image] = []
        for image in images:
            if image.digest is not None:
                known = self.numbers.execute("SELECT number FROM image WHERE name = ?", (image.path,)).fetchone()
                if known:
                    numbers.append(int(known[0]))
                    continue
                self.numbers.execute("INSERT INTO image VALUES (?, ?)", (image.path, first + len(new)))
            numbers.append(first + len(new))
            new.append(image)
        if not new:
            return numbers
        names = [image.path.encode() for image in new]
        self.files["image_names"].write(b"".join(names))
        self.put("image_ends", self.note["names"] + np.cumsum([len(name) for name in names], dtype=np.int64))
        self.note["names"] += sum(map(len, names))
        if new[0].digest is not None:
            self.files["image_digests"].write(b"".join(image.digest or b"" for image in new))
            self.put("image_stamps", [image.stamp for image in new])
        if new[0].size is not None:
            self.put("image_sizes", [image.size for image in new])
        return numbers

    def chunk_done(self, number: int, read: int) -> None:
        """Record the progress every `NOTED` chunks."""
        self.note["read"][str(number)] = read
        self.chunks += 1
        if self.chunks % NOTED == 0:
            self.write_note()

    def write_note(self) -> None:
        """Flush all files to disk, then write the record of their sizes."""
        for file in self.files.values():
            file.flush()
            disk.sync(file.fileno())
        self.numbers.commit()
        self.note["sizes"] = {name: file.tell() for name, file in self.files.items()}
        write_json(self.folder / "note.json", self.note)

    def finish(self) -> None:
        """Convert the files to .npy arrays, which can be memory-mapped, and write the file that marks completion."""
        self.write_note()
        self.close()
        for name, (kind, shape) in FILES.items():
            raw = self.folder / f"{name}.raw"
            size = raw.stat().st_size // (np.dtype(kind).itemsize * int(np.prod(shape, dtype=int)))
            values = np.memmap(raw, kind, "r", shape=(size, *shape)) if size else np.zeros((0, *shape), kind)
            np.save(self.folder / f"{name}.npy", values)
        whole = [path for path in sorted(self.folder.iterdir()) if path.suffix in (".npy", ".jsonl")]
        counts = {key: self.note[key] for key in ("left_out", "broken", "changed")}
        told = json.dumps({**counts, "sha256": {path.name: disk.checksum(path) for path in whole}}, indent=2)
        write_summed(self.folder / DONE, told.encode())
        # The record goes first: without it, files left by an interrupted clean-up are ignored.
        for path in (self.folder / "note.json", *self.folder.glob("*.raw"), self.folder / "numbers.sqlite"):
            path.unlink()

    def close(self) -> None:
        """Close the files."""
        for file in self.files.values():
            # After a full disk, closing would fail on the same unwritten data.
            with suppress(OSError):
                file.close()
        self.numbers.close()

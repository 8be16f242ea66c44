"""An index of the rows of a large JSON file: computed once, kept on disk, and then mapped into memory.

It covers JSON lines and one JSON array of objects. Files are read in pieces, so memory does not grow with their size.
"""

from __future__ import annotations

import codecs
import itertools
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mllm_eval import disk
from mllm_eval.config import short_hash
from mllm_eval.disk import saving
from mllm_eval.errors import UserError

PIECE = 2**22
# Rows of the index that are collected in memory before they are written.
CHUNK = 2**16
VERSION = 2

# Tokens that matter for an array's structure: whole strings, brackets outside of strings, and an unfinished string.
_MARKS = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{}]|"', re.DOTALL)
_OPEN = (b"[", b"{")
_CLOSE = (b"]", b"}")
_SPACE = b" \t\r\n"

Index = NDArray[np.int64]


def row_index(path: Path, keep: Path | None = None) -> Index:
    """Begin and end in bytes, and line number, of each row: int64 [n, 3].

    keep: a folder where the index is written once and then mapped; a changed file gets a new index.
    Raises UserError for a truncated array.
    """
    if keep is None:
        return np.asarray(list(row_starts(path)), np.int64).reshape(-1, 3)
    status = os.stat(path)
    key = short_hash([VERSION, str(path.absolute()), status.st_size, status.st_mtime_ns], 16)
    target = keep / f"{key}.npy"
    if not target.is_file():
        _write(path, target)
    mapped: Index = np.load(target, mmap_mode="r")
    return mapped


def _write(path: Path, target: Path) -> None:
    """Write the index to temporary files and rename it, so that a crash leaves no incomplete index."""
    raw, whole = (target.with_name(f".{target.stem}.{os.getpid()}.{kind}") for kind in ("raw", "npy"))
    with saving(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        _write_beside(path, raw, whole, target)


def _write_beside(path: Path, raw: Path, whole: Path, target: Path) -> None:
    try:
        with open(raw, "wb") as file:
            count = 0
            for chunk in _chunks(row_starts(path)):
                np.asarray(chunk, np.int64).tofile(file)
                count += len(chunk)
        # The npy header needs the number of rows, which is known only now. An empty file cannot be mapped.
        rows = np.memmap(raw, np.int64, "r", shape=(count, 3)) if count else np.zeros((0, 3), np.int64)
        with open(whole, "wb") as file:
            np.save(file, rows)
            file.flush()
            disk.sync(file.fileno())
        disk.replace(whole, target)
    finally:
        raw.unlink(missing_ok=True)
        whole.unlink(missing_ok=True)


def _chunks(rows: Iterator[tuple[int, int, int]]) -> Iterator[list[tuple[int, int, int]]]:
    while chunk := list(itertools.islice(rows, CHUNK)):
        yield chunk


def row_starts(path: Path) -> Iterator[tuple[int, int, int]]:
    """Yield begin, end (bytes) and line of each row of a jsonl file or JSON array. Raises UserError if truncated."""
    with open(path, "rb") as file:
        head = file.read(PIECE).removeprefix(codecs.BOM_UTF8).lstrip(_SPACE)
    return _array_rows(path) if head.startswith(b"[") else _line_rows(path)


def _line_rows(path: Path) -> Iterator[tuple[int, int, int]]:
    at = 0
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield at, at + len(line), number
            at += len(line)


def _array_rows(path: Path) -> Iterator[tuple[int, int, int]]:
    depth = begin = line = at = 0
    lines = 1
    rest = b""
    with open(path, "rb") as file:
        while piece := file.read(PIECE):
            data = rest + piece
            counted, end = 0, len(data)
            for mark in _MARKS.finditer(data):
                symbol = mark.group()
                if symbol == b'"':
                    end = mark.start()
                    break
                if symbol in _OPEN:
                    depth += 1
                    if depth == 2:
                        lines += data.count(b"\n", counted, mark.start())
                        counted = mark.start()
                        begin, line = at + mark.start(), lines
                elif symbol in _CLOSE:
                    depth -= 1
                    if depth == 1:
                        yield begin, at + mark.end(), line
            lines += data.count(b"\n", counted, end)
            rest = data[end:]
            at += end
    if depth or rest:
        raise UserError(f"{path}: the JSON array is cut short; fetch the file again")

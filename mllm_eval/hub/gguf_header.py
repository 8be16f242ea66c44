"""Reads the header of a GGUF file, without torch and without the package gguf.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Every count and length is compared with the bytes
that are left before it is used, because a damaged file can contain any 64-bit number.
"""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mllm_eval.errors import UserError

MAGIC, VERSIONS = b"GGUF", (2, 3)
# Largest number of header bytes (metadata and tensor names); the largest vocabularies take about 20 million.
LONGEST = 200_000_000
DIMENSIONS, NESTED = 4, 4
# Type number of a value -> its numpy dtype, except for strings and arrays.
NUMBERS = {0: "u1", 1: "i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "u1", 10: "<u8", 11: "<i8", 12: "<f8"}
BOOL, STRING, ARRAY = 7, 8, 9
# Type number of a tensor -> name, elements per block, bytes per block (GGML_QUANT_SIZES of the package gguf).
KINDS: dict[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
}


class GgufTensor(NamedTuple):
    """kind: type number (`KINDS`). shape: in torch's order, rows first. start, size: its bytes in the file."""

    kind: int
    shape: tuple[int, ...]
    start: int
    size: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


class GgufHeader(NamedTuple):
    """metadata: key -> number, text, bool, list of texts, or array of numbers. tensors: by name."""

    metadata: dict[str, Any]
    tensors: dict[str, GgufTensor]

    @property
    def quantisation(self) -> str:
        """Types of the matrices, the one with most elements first: `Q4_1+Q8_0`."""
        held: dict[str, int] = {}
        for one in self.tensors.values():
            if len(one.shape) > 1:
                held[KINDS[one.kind][0]] = held.get(KINDS[one.kind][0], 0) + one.elements
        return "+".join(sorted(held, key=lambda name: (-held[name], name)))


def read_gguf(path: Path) -> GgufHeader:
    """Read metadata and tensors of a file. Raises UserError if it is not GGUF, truncated, or has a damaged header."""
    try:
        status = path.stat()
    except OSError as problem:
        raise UserError(f"{path}: cannot be read ({problem.strerror})") from None
    return _read(path, status.st_size, status.st_mtime_ns)


@cache
def _read(path: Path, size: int, changed: int) -> GgufHeader:
    # `changed` is only part of the cache key, so that a replaced file is read again.
    with open(path, "rb") as file:
        cursor = _Cursor(path, file.read(min(size, LONGEST)), size)
    if cursor.take(4) != MAGIC:
        raise UserError(
            f"{path}: not a GGUF file; `weights: path:` names a folder in the hub's format, or a .gguf file"
        )
    version = cursor.number("<u4")
    if version not in VERSIONS:
        many = version & 0xFFFF == 0
        raise UserError(
            f"{path}: GGUF of {'big-endian machines' if many else f'version {version}'} is not read; "
            "convert the weights again"
        )
    tensors, values = cursor.number("<u8"), cursor.number("<u8")
    # Smallest sizes: a key has a length (8 bytes), a type (4) and a value (1); a tensor has 24 bytes.
    cursor.hold(values, 13, "values")
    metadata: dict[str, Any] = {}
    for _ in range(values):
        key = cursor.text()
        if key in metadata:
            raise cursor.damaged(f"names {key!r} twice")
        metadata[key] = cursor.value(cursor.number("<u4"))
    cursor.hold(tensors, 24, "tensors")
    raw = {}
    for _ in range(tensors):
        name = cursor.text()
        if name in raw:
            raise cursor.damaged(f"names the tensor {name!r} twice")
        raw[name] = _tensor(cursor, name)
    step = metadata.get("general.alignment", 32)
    if not isinstance(step, int) or not 1 <= step <= 2**16:
        raise cursor.damaged(f"says general.alignment: {step}")
    begin = -(-cursor.at // step) * step
    placed = {name: one._replace(start=begin + one.start) for name, one in raw.items()}
    end = max((one.start + one.size for one in placed.values()), default=0)
    if size < end:
        raise UserError(f"{path}: {size:,} bytes where its header says {end:,}: cut short; fetch or copy it again")
    return GgufHeader(metadata, placed)


def _tensor(cursor: _Cursor, name: str) -> GgufTensor:
    rank = cursor.number("<u4")
    if not 1 <= rank <= DIMENSIONS:
        raise cursor.damaged(f"gives {name!r} {rank} dimensions")
    shape = tuple(cursor.number("<u8") for _ in range(rank))[::-1]
    kind, start = cursor.number("<u4"), cursor.number("<u8")
    if kind not in KINDS:
        raise UserError(f"{cursor.path}: the tensor {name!r} is of type {kind}, which is not read here; known: "
                        + ", ".join(known for known, _, _ in KINDS.values()))  # fmt: skip
    called, block, each = KINDS[kind]
    if not all(shape) or math.prod(shape) > cursor.size * 16 or shape[-1] % block:
        raise cursor.damaged(f"gives {name!r} of type {called} the shape {shape}")
    return GgufTensor(kind, shape, start, math.prod(shape) // block * each)


class _Cursor:
    """Reads consecutive values from the first bytes of a file, and raises UserError at their end."""

    def __init__(self, path: Path, raw: bytes, size: int) -> None:
        self.path, self.raw, self.size, self.at = path, raw, size, 0

    def damaged(self, what: str) -> UserError:
        return UserError(f"{self.path}: its GGUF header {what}: damaged or cut short; fetch or copy it again")

    def hold(self, count: int, each: int, what: str) -> None:
        """Raise UserError unless `count` items of at least `each` bytes can follow."""
        left = len(self.raw) - self.at
        if count * each > left:
            raise self.damaged(f"says {count:,} {what} where {left:,} bytes are left")

    def take(self, count: int) -> bytes:
        self.hold(count, 1, "bytes")
        self.at += count
        return self.raw[self.at - count : self.at]

    def number(self, form: str) -> int:
        return int(np.frombuffer(self.take(np.dtype(form).itemsize), form)[0])

    def text(self) -> str:
        return self.take(self.number("<u8")).decode("utf-8", errors="replace")

    def value(self, kind: int, depth: int = 0) -> Any:
        if kind == STRING:
            return self.text()
        if kind == ARRAY:
            return self.array(depth)
        if kind not in NUMBERS:
            raise self.damaged(f"has a value of type {kind}")
        form = np.dtype(NUMBERS[kind])
        one = np.frombuffer(self.take(form.itemsize), form)[0].item()
        return bool(one) if kind == BOOL else one

    def array(self, depth: int) -> Any:
        kind, count = self.number("<u4"), self.number("<u8")
        if kind in NUMBERS:
            form = np.dtype(NUMBERS[kind])
            self.hold(count, form.itemsize, "numbers")
            return np.frombuffer(self.take(count * form.itemsize), form)
        if kind == STRING:
            self.hold(count, 8, "texts")
            return [self.text() for _ in range(count)]
        if kind != ARRAY or depth >= NESTED:
            raise self.damaged(f"has an array of type {kind}")
        self.hold(count, 12, "arrays")
        return [self.array(depth + 1) for _ in range(count)]

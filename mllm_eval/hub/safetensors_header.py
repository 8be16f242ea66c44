"""Reads the header of a safetensors file, without torch."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

from mllm_eval.errors import UserError
from mllm_eval.storage import parse_json

# Largest header that the format allows (https://github.com/huggingface/safetensors).
LONGEST = 100_000_000


class TensorFacts(NamedTuple):
    """dtype as the format names it (`F32`, `BF16`, ...), shape, and size in bytes of a tensor."""

    dtype: str
    shape: tuple[int, ...]
    size: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


def read_header(path: Path) -> dict[str, TensorFacts]:
    """Map tensor names to their facts.

    Raises:
        UserError: not a safetensors file, or one whose length differs from its header.
    """
    mend = "fetch or copy it again"
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or not 2 <= length <= min(LONGEST, size - 8):
            raise UserError(f"{path}: not a safetensors file, or cut short in its header; {mend}")
        raw = file.read(length)
    try:
        entries = parse_json(raw, fields_once=False)
        entries.pop("__metadata__", None)
        header = {}
        for name, entry in entries.items():
            begin, end = entry["data_offsets"]
            header[name] = TensorFacts(str(entry["dtype"]), tuple(map(int, entry["shape"])), end - begin)
            if begin < 0 or end < begin or min(header[name].shape, default=1) < 0:
                raise ValueError(name)
        ends = [entry["data_offsets"][1] for entry in entries.values()]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        raise UserError(f"{path}: its safetensors header can't be read; {mend}") from None
    expected = 8 + length + max(ends, default=0)
    if size != expected:
        raise UserError(f"{path}: {size:,} bytes where its header says {expected:,}: cut short; {mend}")
    return header


def weight_map(index: Path) -> dict[str, str]:
    """Map tensor names to shards, as the index of a model in several files lists them.

    Raises UserError if it cannot be read, or if a shard's name is not that of a file beside the index.
    """
    try:
        listed = parse_json(index.read_text(encoding="utf-8"), fields_once=False)["weight_map"]
        shards = {str(name): str(shard) for name, shard in listed.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{index}: cannot be read; fetch it again") from None
    for shard in set(shards.values()):
        if Path(shard).name != shard or shard == "..":
            raise UserError(f"{index}: names the shard {shard[:80]!r}, which is no file beside it; fetch it again")
    return shards


def shards_of(index: Path) -> list[str]:
    """Names of the shards in an index, without repetition. Raises UserError as `weight_map` does."""
    return sorted(set(weight_map(index).values()))


def elements_in(folder: Path) -> int | None:
    """Number of elements in all safetensors files of a folder, from their headers; None if there are no such files.

    Raises UserError for a truncated or unreadable file.
    """
    for index in folder.glob("*.safetensors.index.json"):
        weight_map(index)
    files = sorted(folder.glob("*.safetensors"))
    return sum(facts.elements for path in files for facts in read_header(path).values()) if files else None

"""Keys and values of a batch whose rows start from shared heads and leave when they end.

`DynamicCache` copies all it holds for every new token; here tokens are written into room that was made ahead.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin


class _Layer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """Keys and values [rows, heads, room, width], of which the first `length` tokens are in use."""

    is_sliding = False
    keys: Tensor
    values: Tensor

    def __init__(self, room: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.room, self.length, self.rows = room, 0, 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        rows, heads, _, width = key_states.shape
        self.rows = rows
        self.keys = key_states.new_empty(rows, heads, self.room, width)
        self.values = value_states.new_empty(rows, heads, self.room, value_states.shape[-1])
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start, end = self.length, self.length + key_states.shape[-2]
        if end > self.room:
            self.copy_from(self, None, max(end, self.room * 3 // 2))
        self.keys[: self.rows, :, start:end] = key_states
        self.values[: self.rows, :, start:end] = value_states
        self.length = end
        return self.keys[: self.rows, :, :end], self.values[: self.rows, :, :end]

    def copy_from(self, source: _Layer, rows: Tensor | None, room: int) -> None:
        """Hold the given rows (None: all) of `source`, with `room` for tokens in all."""
        self.room, self.length, self.is_initialized = room, source.length, True
        self.keys, self.values = (
            _with_room(held[: source.rows, :, : source.length], rows, room)
            for held in (source.keys, source.values)
        )
        self.rows = len(self.keys)

    def get_seq_length(self) -> int:
        return self.length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.length + query_length, 0

    def get_max_length(self) -> int:
        return -1


def _with_room(held: Tensor, rows: Tensor | None, room: int) -> Tensor:
    count, (_, heads, length, width) = len(held) if rows is None else len(rows), held.shape
    copy = held.new_empty(count, heads, room, width)
    copy[:, :, :length] = held if rows is None else held[rows]
    return copy


class KeyValues(Cache):
    """The cache of a LLaMA with `depth` layers, with `room` for tokens before anything must be moved."""

    def __init__(self, depth: int, room: int) -> None:
        self.held = [_Layer(room) for _ in range(depth)]
        super().__init__(layers=[*self.held])

    def pick(self, rows: Sequence[int], room: int) -> KeyValues:
        """A copy that begins with what the given rows hold, in this order; a row may be given many times."""
        picked = KeyValues(len(self.held), room)
        if self.get_seq_length():
            index = torch.tensor(rows, device=self.held[0].keys.device)
            for mine, theirs in zip(picked.held, self.held, strict=True):
                mine.copy_from(theirs, index, room)
        return picked

    def drop(self, moves: Sequence[tuple[int, int]], left: int) -> None:
        """Keep the first `left` rows, after each row of `moves` (place, row) has gone to its place."""
        for layer in self.held:
            for place, row in moves:
                layer.keys[place, :, : layer.length] = layer.keys[row, :, : layer.length]
                layer.values[place, :, : layer.length] = layer.values[row, :, : layer.length]
            layer.rows = left


def moved_rows(ended: Sequence[int], rows: int) -> list[tuple[int, int]]:
    """(place, row): which row takes which free place so that rows that have not ended stand in front."""
    left = rows - len(ended)
    places = sorted(row for row in ended if row < left)
    gone = set(ended)
    return list(zip(places, (row for row in range(left, rows) if row not in gone), strict=True))

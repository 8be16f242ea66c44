"""Keys and values of rows that leave when they end.

`DynamicCache` copies all it holds for every new token; here tokens are written into room that was made ahead.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin


class _Layer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """Keys and values [rows, key heads, room, width], of which the first `length` tokens are in use."""

    is_sliding = False
    keys: Tensor
    values: Tensor

    def __init__(self, room: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.room, self.length = room, 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.keys = key_states.new_empty(*key_states.shape[:2], self.room, key_states.shape[-1])
        self.values = value_states.new_empty(*value_states.shape[:2], self.room, value_states.shape[-1])
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start, end = self.length, self.length + key_states.shape[-2]
        if end > self.room:
            self.room = max(end, 2 * self.room)
            self.keep(slice(None))
        self.keys[:, :, start:end] = key_states
        self.values[:, :, start:end] = value_states
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def keep(self, rows: Tensor | slice) -> None:
        """Hold these rows alone, with room for `room` tokens."""
        used = self.keys[:, :, : self.length][rows], self.values[:, :, : self.length][rows]
        self.lazy_initialization(*used)
        self.keys[:, :, : self.length], self.values[:, :, : self.length] = used

    def get_seq_length(self) -> int:
        return self.length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.length + query_length, 0

    def get_max_length(self) -> int:
        return -1


class KeyValues(Cache):
    """The cache of a LLaMA with `depth` layers, with `room` for tokens before anything must be moved."""

    def __init__(self, depth: int, room: int) -> None:
        self.held = [_Layer(room) for _ in range(depth)]
        super().__init__(layers=[*self.held])

    def keep(self, rows: Tensor) -> None:
        """Hold the rows of these numbers alone, in this order."""
        for layer in self.held:
            layer.keep(rows)

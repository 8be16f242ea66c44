"""Which positions of the LLM an image takes: the grid of its image tokens, and the shown part of it. No torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mllm_eval.catalog.encoder import Encoder
    from mllm_eval.catalog.recipe import Recipe

Kept = tuple[int, int]
"""Rows and columns of the centred part of the grid that is shown to the LLM."""


@dataclass(frozen=True, slots=True)
class TokenGrid:
    """A square grid of `edge` x `edge` image tokens, with a row token after each row if `row_token` is set.

    With `hide`, image tokens of the padding around a picture are not shown to the LLM.
    """

    edge: int
    row_token: bool = False
    hide: bool = False

    @classmethod
    def of(cls, recipe: Recipe, encoder: Encoder) -> TokenGrid:
        """The grid of a recipe for an encoder. Tokens can only be hidden if the encoder pads images to a square."""
        hide = recipe.padding == "hide" and encoder.preprocessing.mode == "pad"
        return cls(math.isqrt(recipe.tokens), recipe.row_token, hide)

    @property
    def positions(self) -> int:
        """LLM positions of the whole grid, row tokens included."""
        return self.count((self.edge, self.edge))

    def count(self, kept: Kept) -> int:
        """LLM positions of the shown part, row tokens included."""
        return kept[0] * (kept[1] + self.row_token)

    def kept(self, size: tuple[int, int] | None) -> Kept:
        """Shown rows and columns for a picture of (width, height); the whole grid if nothing is hidden or size is None.

        Computed as in Cambrian-1 (cambrian/model/cambrian_arch.py, `unpad_image`): the long side fills the grid, the
        short side gets its share rounded down, and half of the remaining rows or columns, rounded down, is hidden on
        each side. A picture so long that nothing would be left keeps as much as one of a single row or column.
        """
        edge = self.edge
        if not self.hide or size is None:
            return edge, edge
        width, height = size
        # The order of operations is that of the original, because its rounding matters at exact shares.
        if width / height > 1:
            return edge - (edge - max(1, int(height * (edge / width)))) // 2 * 2, edge
        return edge, edge - (edge - max(1, int(width * (edge / height)))) // 2 * 2

    def all_kept(self, sizes: NDArray[np.int32]) -> NDArray[np.int64]:
        """`kept` for many sizes: int32 [n, 2] (width, height) to int64 [n, 2]. A size with a 0 gives the whole grid."""
        import numpy as np

        # Millions of images have only thousands of distinct sizes.
        distinct, which = np.unique(sizes.reshape(-1, 2), axis=0, return_inverse=True)
        kept = [self.kept((width, height) if width and height else None) for width, height in distinct.tolist()]
        return np.array(kept, np.int64).reshape(-1, 2)[which.reshape(-1)]

    def shown(self, kept: Kept) -> list[int]:
        """Indices of the shown positions within the whole grid, row tokens included, ascending."""
        rows, columns = kept
        top, left, across = (self.edge - rows) // 2, (self.edge - columns) // 2, self.edge + self.row_token
        # The row token comes after the full row, so after the hidden columns on the right.
        own = [*range(left, left + columns), *([self.edge] if self.row_token else [])]
        return [row * across + column for row in range(top, top + rows) for column in own]

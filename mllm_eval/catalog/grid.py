"""Which positions of the LLM an image takes: the grid of its visual tokens, and what of it is shown. No torch."""

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
"""Rows and columns of the grid that are shown: those in its middle."""


@dataclass(frozen=True, slots=True)
class TokenGrid:
    """`edge` rows of `edge` visual tokens, each with a row token behind it where `row_token` says so.

    With `hide`, the tokens of the rim that pads a picture to a square are not shown.
    """

    edge: int
    row_token: bool = False
    hide: bool = False

    @classmethod
    def of(cls, recipe: Recipe, encoder: Encoder) -> TokenGrid:
        """The grid of a recipe. Only a padded picture has a rim: of another nothing is hidden."""
        hide = recipe.padding == "hide" and encoder.preprocessing.mode == "pad"
        return cls(math.isqrt(recipe.tokens), recipe.row_token, hide)

    @property
    def positions(self) -> int:
        """Positions of a whole grid."""
        return self.count((self.edge, self.edge))

    def count(self, kept: Kept) -> int:
        """Positions of what is shown."""
        return kept[0] * (kept[1] + self.row_token)

    def kept(self, size: tuple[int, int] | None) -> Kept:
        """What is shown of a picture of that width and height; the whole grid where nothing is hidden, or of no size.

        As Cambrian-1 counts it (cambrian/model/cambrian_arch.py, `unpad_image`): the long side fills the grid, the
        short one gets the whole part of its share, and half of what is left, rounded down, goes at either end. A
        picture that is so long that nothing would be left there keeps what one of a single row or column does.
        """
        edge = self.edge
        if not self.hide or size is None:
            return edge, edge
        width, height = size
        # The order of the operations is the original's: its rounding decides at exact shares.
        if width / height > 1:
            return edge - (edge - max(1, int(height * (edge / width)))) // 2 * 2, edge
        return edge, edge - (edge - max(1, int(width * (edge / height)))) // 2 * 2

    def all_kept(self, sizes: NDArray[np.int32]) -> NDArray[np.int64]:
        """`kept` [n, 2] of many sizes [n, 2]; where one is 0, the whole grid."""
        import numpy as np

        # Millions of images have some thousands of sizes.
        distinct, which = np.unique(sizes.reshape(-1, 2), axis=0, return_inverse=True)
        kept = [self.kept((width, height) if width and height else None) for width, height in distinct.tolist()]
        return np.array(kept, np.int64).reshape(-1, 2)[which.reshape(-1)]

    def shown(self, kept: Kept) -> list[int]:
        """The places of what is shown among the positions of the whole grid, ascending."""
        rows, columns = kept
        top, left, across = (self.edge - rows) // 2, (self.edge - columns) // 2, self.edge + self.row_token
        # The row token stands behind the row, beyond the rim on the right.
        own = [*range(left, left + columns), *([self.edge] if self.row_token else [])]
        return [row * across + column for row in range(top, top + rows) for column in own]

"""Perceptual hashes: 64 bits of a picture that a copy of it nearly shares.

The hash is ImageHash's `phash`: the signs of the lowest 8 x 8 frequencies of a grey 32 x 32 picture about their median.
It withstands compression and scaling, neither mirroring nor cutting: so a benchmark's picture is hashed in many views,
and a training picture once.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import PIL.Image
import PIL.ImageOps
from numpy.typing import NDArray

from mllm_eval.errors import UserError

Hashes = NDArray[np.uint64]

NAME = "imagehash.phash 8 x 8"
# A hash reads 32 x 32 pixels: what is larger is made smaller once, and not for every view.
EDGE = 512


class View(NamedTuple):
    """A part of a picture: the share of its width and height that is kept, where it lies (0 to 1), whether mirrored."""

    keep: float
    x: float
    y: float
    mirrored: bool

    def of(self, picture: PIL.Image.Image) -> PIL.Image.Image:
        """That part of a picture."""
        width, height = (max(1, round(edge * self.keep)) for edge in picture.size)
        left, top = round((picture.width - width) * self.x), round((picture.height - height) * self.y)
        part = picture if self.keep == 1 else picture.crop((left, top, left + width, top + height))
        return PIL.ImageOps.mirror(part) if self.mirrored else part

    def words(self) -> str:
        """`whole`, `mirrored`, `90 % of each side`, `90 % of each side, mirrored`."""
        said = [] if self.keep == 1 else [f"{100 * self.keep:.0f} % of each side"]
        return ", ".join([*said, *(["mirrored"] if self.mirrored else [])]) or "whole"


def _cuts() -> Iterator[tuple[float, float, float]]:
    yield 1.0, 0.0, 0.0
    # A tenth of each side, and a tenth of the area.
    for keep, places in ((0.9, (0.0, 0.5, 1.0)), (0.95, (0.0, 1.0))):
        for y in places:
            for x in places:
                yield keep, x, y
    yield 0.95, 0.5, 0.5


VIEWS = tuple(View(*cut, mirrored) for mirrored in (False, True) for cut in _cuts())
"""The whole first."""


@cache
def _library() -> Any:
    try:
        import imagehash
    except ImportError:
        raise UserError("leaks needs the library ImageHash; install it with `pip install 'mllm-eval[leaks]'`") from None
    return imagehash


def small(picture: PIL.Image.Image) -> PIL.Image.Image:
    """A grey copy of at most 512 pixels a side, which is what gets hashed."""
    grey = picture.convert("L")
    grey.thumbnail((EDGE, EDGE), PIL.Image.Resampling.LANCZOS)
    return grey


def hash_of(picture: PIL.Image.Image) -> int:
    """The 64 bits of a picture as a whole number."""
    return _bits(small(picture))


def hashes_of_views(picture: PIL.Image.Image) -> Hashes:
    """[views] uint64, in the order of `VIEWS`."""
    grey = small(picture)
    return np.array([_bits(view.of(grey)) for view in VIEWS], np.uint64)


def _bits(grey: PIL.Image.Image) -> int:
    bits = _library().phash(grey).hash
    return int.from_bytes(np.packbits(bits).tobytes(), "big")

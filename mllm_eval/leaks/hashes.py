"""Perceptual hashes: 64 bits of an image that differ in few bits from those of a copy.

The hash is ImageHash's `phash`: which of the lowest 8 x 8 frequencies of the grey 32 x 32 image exceed their median. It
tolerates compression and scaling, but neither mirroring nor cropping. Therefore a benchmark's image is hashed in many
views, and a training image once.
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
# A hash needs only 32 x 32 pixels, so a large image is scaled down once for all views.
EDGE = 512


class View(NamedTuple):
    """A part of an image: share of its width and height that is kept, position (0 to 1), and whether it is mirrored."""

    keep: float
    x: float
    y: float
    mirrored: bool

    def of(self, picture: PIL.Image.Image) -> PIL.Image.Image:
        """This part of the image."""
        width, height = (max(1, round(edge * self.keep)) for edge in picture.size)
        left, top = round((picture.width - width) * self.x), round((picture.height - height) * self.y)
        part = picture if self.keep == 1 else picture.crop((left, top, left + width, top + height))
        return PIL.ImageOps.mirror(part) if self.mirrored else part

    def words(self) -> str:
        """The view in words: `whole`, `mirrored`, `90 % of each side`, `90 % of each side, mirrored`."""
        said = [] if self.keep == 1 else [f"{100 * self.keep:.0f} % of each side"]
        return ", ".join([*said, *(["mirrored"] if self.mirrored else [])]) or "whole"


def _cuts() -> Iterator[tuple[float, float, float]]:
    yield 1.0, 0.0, 0.0
    # Crops that lose a tenth of each side, and about a tenth of the area.
    for keep, places in ((0.9, (0.0, 0.5, 1.0)), (0.95, (0.0, 1.0))):
        for y in places:
            for x in places:
                yield keep, x, y
    yield 0.95, 0.5, 0.5


VIEWS = tuple(View(*cut, mirrored) for mirrored in (False, True) for cut in _cuts())
"""The views of a benchmark's image; the first is the whole image."""


@cache
def _library() -> Any:
    try:
        import imagehash
    except ImportError:
        raise UserError("leaks needs the library ImageHash; install it with `pip install 'mllm-eval[leaks]'`") from None
    return imagehash


def small(picture: PIL.Image.Image) -> PIL.Image.Image:
    """A grey copy of at most 512 pixels a side, from which the hash is computed."""
    grey = picture.convert("L")
    grey.thumbnail((EDGE, EDGE), PIL.Image.Resampling.LANCZOS)
    return grey


def hash_of(picture: PIL.Image.Image) -> int:
    """The hash of an image as an integer of 64 bits."""
    return _bits(small(picture))


def hashes_of_views(picture: PIL.Image.Image) -> Hashes:
    """The hashes of all views of an image: uint64 [views], in the order of `VIEWS`."""
    grey = small(picture)
    return np.array([_bits(view.of(grey)) for view in VIEWS], np.uint64)


def _bits(grey: PIL.Image.Image) -> int:
    bits = _library().phash(grey).hash
    return int.from_bytes(np.packbits(bits).tobytes(), "big")

"""From an image to the pixels an encoder expects: one function per way of making it square."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

if TYPE_CHECKING:
    from mllm_eval.catalog import Preprocessing

RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
# The share of the shortest edge that torchvision's usual "resize 256, crop 224" keeps.
CROP_SHARE = 224 / 256


def expand_to_square(image: Image.Image, fill: tuple[int, int, int]) -> Image.Image:
    """Centre an RGB image on a square of its longer edge, of one colour (Cambrian's `expand2square`)."""
    width, height = image.size
    if width == height:
        return image
    edge = max(width, height)
    square = Image.new("RGB", (edge, edge), fill)
    square.paste(image, ((edge - width) // 2, (edge - height) // 2))
    return square


def pad(image: Image.Image, facts: Preprocessing) -> Image.Image:
    """Square by padding with `int(255 * mean)`, then one resize: what Cambrian does for every encoder."""
    red, green, blue = (int(255 * value) for value in facts.mean)
    square = expand_to_square(image, (red, green, blue))
    return square.resize((facts.size, facts.size), RESAMPLING[facts.interpolation])


def squash(image: Image.Image, facts: Preprocessing) -> Image.Image:
    """Resize to a square and let the proportions go: what the Web-SSL demo does."""
    return image.resize((facts.size, facts.size), RESAMPLING[facts.interpolation])


def crop(image: Image.Image, facts: Preprocessing) -> Image.Image:
    """Resize the shortest edge to `resize` (or size * 256 / 224, the stock DINOv2 processor), then cut the centre."""
    edge = facts.resize or round(facts.size / CROP_SHARE)
    width, height = image.size
    # The long edge is cut to an integer, not rounded, as transformers' processors do.
    if width <= height:
        width, height = edge, int(edge * height / width)
    else:
        width, height = int(edge * width / height), edge
    image = image.resize((width, height), RESAMPLING[facts.interpolation])
    left, top = (width - facts.size) // 2, (height - facts.size) // 2
    return image.crop((left, top, left + facts.size, top + facts.size))


MODES: dict[str, Callable[[Image.Image, Preprocessing], Image.Image]] = {
    "pad": pad,
    "squash": squash,
    "crop": crop,
}


def to_pixels(image: Image.Image, facts: Preprocessing) -> NDArray[np.float32]:
    """The normalised pixels of one image, float32 [3, size, size], channels in RGB order."""
    square = MODES[facts.mode](image.convert("RGB"), facts)
    pixels = np.asarray(square, dtype=np.float32).transpose(2, 0, 1) / np.float32(255)
    mean = np.asarray(facts.mean, dtype=np.float32)[:, None, None]
    std = np.asarray(facts.std, dtype=np.float32)[:, None, None]
    normalised: NDArray[np.float32] = np.ascontiguousarray((pixels - mean) / std)
    return normalised

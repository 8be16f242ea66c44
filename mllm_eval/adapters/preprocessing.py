"""Turns images into the pixels that an encoder expects, with one function per way of making an image square."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mllm_eval.decoding import to_rgb

if TYPE_CHECKING:
    from mllm_eval.catalog import Preprocessing

RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
# The share of the short edge that torchvision's usual "resize 256, crop 224" keeps.
CROP_SHARE = 224 / 256
# Longest edge, in pixels, that is padded to a square; larger images are averaged down first.
LONGEST = 20_000
# Largest aspect ratio that a crop keeps. Beyond it, the image is first cut to this ratio at its centre.
WIDEST = 64


def expand_to_square(image: Image.Image, fill: tuple[int, int, int]) -> Image.Image:
    """Centre an RGB image on a square of one colour, whose edge is the longer edge (Cambrian's `expand2square`)."""
    width, height = image.size
    if width == height:
        return image
    edge = max(width, height)
    square = Image.new("RGB", (edge, edge), fill)
    square.paste(image, ((edge - width) // 2, (edge - height) // 2))
    return square


def pad(image: Image.Image, facts: Preprocessing) -> Image.Image:
    """Pad to a square of colour `int(255 * fill)`, and resize it to `size`, as Cambrian does before its transforms.

    With `recrop`, the square is then scaled up and its centre cut out, as in Cambrian's transforms for MAE and I-JEPA.
    """
    red, green, blue = (int(255 * value) for value in facts.fill or facts.mean)
    square = expand_to_square(image, (red, green, blue))
    square = square.resize((facts.size, facts.size), RESAMPLING[facts.interpolation])
    if facts.recrop is None:
        return square
    edge, cut = facts.recrop.resize, (facts.recrop.resize - facts.size) // 2
    square = square.resize((edge, edge), RESAMPLING[facts.recrop.interpolation])
    return square.crop((cut, cut, cut + facts.size, cut + facts.size))


def squash(image: Image.Image, facts: Preprocessing) -> Image.Image:
    """Resize to a square without keeping the aspect ratio, as the Web-SSL demo does."""
    return image.resize((facts.size, facts.size), RESAMPLING[facts.interpolation])


def crop(image: Image.Image, facts: Preprocessing) -> Image.Image:
    """Resize the short edge to `resize` (default: size * 256 / 224, as the DINOv2 processor), then crop the centre."""
    edge = facts.resize or round(facts.size / CROP_SHARE)
    width, height = image.size
    if max(width, height) > WIDEST * min(width, height):
        across, down = (min(edge_, WIDEST * min(width, height)) for edge_ in image.size)
        left, top = (width - across) // 2, (height - down) // 2
        image = image.crop((left, top, left + across, top + down))
        width, height = image.size
    # The long edge is truncated to an integer, as in transformers' processors.
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
    """Preprocess one image to normalised pixels, float32 [3, size, size], channels in RGB order.

    `mllm_eval.decoding.to_rgb` converts other image modes and applies orientation tags.
    """
    image = to_rgb(image)
    # A 60,000 pixels wide, 1 pixel high image would be padded to a square of 10 GB before it is resized.
    if max(image.size) > LONGEST:
        image = image.reduce(-(-max(image.size) // LONGEST))
    square = MODES[facts.mode](image, facts)
    pixels = np.asarray(square, dtype=np.float32).transpose(2, 0, 1) / np.float32(255)
    mean = np.asarray(facts.mean, dtype=np.float32)[:, None, None]
    std = np.asarray(facts.std, dtype=np.float32)[:, None, None]
    normalised: NDArray[np.float32] = np.ascontiguousarray((pixels - mean) / std)
    return normalised

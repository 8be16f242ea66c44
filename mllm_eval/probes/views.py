"""From a picture to the pixels of a probe: crops for learning, the centre for testing. Draws come from a generator."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mllm_eval.catalog import Encoder, Preprocessing
from mllm_eval.catalog.probe import ImageProbe, LinearProbe

RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
TRIES = 10
Pixels = NDArray[np.float32]


def drawing(seed: int, step: int, place: int) -> np.random.Generator:
    """The generator of one picture of one step: the same whoever computes it, whatever was computed before."""
    return np.random.default_rng([seed, step, place])


def probed(encoder: Encoder, protocol: ImageProbe) -> Encoder:
    """The encoder as a probe of whole images reads it: scaled to the shorter side, the centre cut out."""
    size = protocol.size or encoder.preprocessing.size
    own = encoder.preprocessing
    seen = Preprocessing(
        mode="crop",
        size=size,
        resize=max(size, round(size * protocol.shorter)),
        mean=own.mean,
        std=own.std,
        interpolation=protocol.interpolation,
    )
    return encoder.model_copy(update={"norm": protocol.norm, "preprocessing": seen, "variants": {}})


def normalised(image: NDArray[np.generic] | Image.Image, facts: Preprocessing) -> Pixels:
    """float32 [3, H, W] of an RGB image of values from 0 to 255: (x / 255 - mean) / std, channel by channel."""
    pixels = np.asarray(image, dtype=np.float32).transpose(2, 0, 1) / np.float32(255)
    mean = np.asarray(facts.mean, dtype=np.float32)[:, None, None]
    std = np.asarray(facts.std, dtype=np.float32)[:, None, None]
    return np.ascontiguousarray((pixels - mean) / std)


def random_box(
    rng: np.random.Generator, width: int, height: int, area: tuple[float, float], ratio: tuple[float, float]
) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of a random crop: its share of the area is uniform in `area`, its width by its height
    log-uniform in `ratio`; after ten that do not fit, the largest centre crop of an allowed ratio (as torchvision's
    RandomResizedCrop)."""
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for _ in range(TRIES):
        wanted = width * height * rng.uniform(*area)
        shape = math.exp(rng.uniform(low, high))
        w, h = round(math.sqrt(wanted * shape)), round(math.sqrt(wanted / shape))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
            return left, top, left + w, top + h
    shape = width / height
    w = min(width, round(height * ratio[1])) if shape > ratio[1] else width
    h = min(height, round(width / ratio[0])) if shape < ratio[0] else height
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def random_view(image: Image.Image, encoder: Encoder, protocol: LinearProbe, rng: np.random.Generator) -> Pixels:
    """A random crop of an RGB image, scaled to the encoder's size, and mirrored or not; float32 [3, size, size]."""
    size = encoder.preprocessing.size
    box = random_box(rng, *image.size, protocol.crop, protocol.ratio)
    view = image.crop(box).resize((size, size), RESAMPLING[protocol.interpolation])
    if rng.random() < protocol.flip:
        view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return normalised(view, encoder.preprocessing)

"""Turns images into the pixels of a probe: random crops to train on, the centre to test on."""

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
    """The random generator of one image of one step; it depends on nothing else."""
    return np.random.default_rng([seed, step, place])


def probed(encoder: Encoder, protocol: ImageProbe) -> Encoder:
    """The encoder with the preprocessing of a whole-image probe: shorter side scaled, centre cropped."""
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
    """(x / 255 - mean) / std per channel of an RGB image with values from 0 to 255, as float32 [3, H, W]."""
    pixels = np.asarray(image, dtype=np.float32).transpose(2, 0, 1) / np.float32(255)
    mean = np.asarray(facts.mean, dtype=np.float32)[:, None, None]
    std = np.asarray(facts.std, dtype=np.float32)[:, None, None]
    return np.ascontiguousarray((pixels - mean) / std)


def random_box(
    rng: np.random.Generator, width: int, height: int, area: tuple[float, float], ratio: tuple[float, float]
) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of a random crop, as torchvision's RandomResizedCrop draws it.

    Its share of the area is uniform in `area`, its aspect ratio (width / height) log-uniform in `ratio`. After ten
    draws that do not fit, it is the largest centre crop with an allowed aspect ratio.
    """
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
    """A random crop of an RGB image, scaled to the encoder's size and randomly mirrored; float32 [3, size, size]."""
    size = encoder.preprocessing.size
    box = random_box(rng, *image.size, protocol.crop, protocol.ratio)
    view = image.crop(box).resize((size, size), RESAMPLING[protocol.interpolation])
    if rng.random() < protocol.flip:
        view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return normalised(view, encoder.preprocessing)

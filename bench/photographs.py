"""Random images of the size of the benchmarks' photographs; equal numbers give equal images."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from mllm_eval.data.samples import ImageRef
from mllm_eval.storage import sha256_bytes


def photograph(number: int, size: tuple[int, int] = (640, 480)) -> bytes:
    """A JPEG of coarse random colours. number: the seed. size: (width, height) in pixels."""
    noise = np.random.default_rng(number).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    kept = io.BytesIO()
    Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).save(kept, "JPEG", quality=90)
    return kept.getvalue()


def picture(number: int, size: tuple[int, int] = (640, 480)) -> ImageRef:
    """The same image as an `ImageRef`, the form in which benchmarks give their images."""
    data = photograph(number, size)
    return ImageRef(sha256_bytes(data), lambda: Image.open(io.BytesIO(data)).convert("RGB"), lambda: size)

"""Batches of the world's pictures as pixels, the same for both objectives."""

from __future__ import annotations

from random import Random

import numpy as np
import torch
from PIL import Image

from mllm_eval.miniature.world import KINDS, SIZE, Picture, draw

KIND_NAMES = tuple(KINDS)


def pixels(images: list[Image.Image]) -> torch.Tensor:
    """Images centred on grey squares as float32 [B, 3, 112, 112] in [-1, 1] (mean and std 0.5)."""
    batch = np.full((len(images), SIZE, SIZE, 3), 127, dtype=np.uint8)
    for row, image in zip(batch, images, strict=True):
        w, h = image.size
        x, y = (SIZE - w) // 2, (SIZE - h) // 2
        row[y : y + h, x : x + w] = np.asarray(image)
    return torch.from_numpy(batch).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)


def pictures(series: str, step: int, size: int, one_kind: bool) -> list[Picture]:
    """The pictures of a step: of all kinds, or of one kind so that all differ in content only."""
    rng = Random(f"{series}/{step}")
    kind = rng.choice(KIND_NAMES)
    first = step * size
    return [draw(series, first + k, kind if one_kind else rng.choice(KIND_NAMES)) for k in range(size)]

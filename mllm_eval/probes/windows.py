"""Sliding windows over an image, and padding to whole patches."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

Window = tuple[int, int, int, int]


def windows(height: int, width: int, crop: tuple[int, int], stride: int) -> list[Window]:
    """Top, bottom, left, right of the windows that cover an image, row by row, as mmsegmentation slides them.

    A side has max(side - crop + stride - 1, 0) // stride + 1 windows, of which the last is moved inside the image. A
    side shorter than the crop has one window of its own length.
    """
    return [
        (top, bottom, left, right)
        for top, bottom in _along(height, crop[0], stride)
        for left, right in _along(width, crop[1], stride)
    ]


def _along(side: int, crop: int, stride: int) -> list[tuple[int, int]]:
    ends = [min(at * stride + crop, side) for at in range(max(side - crop + stride - 1, 0) // stride + 1)]
    return [(max(end - crop, 0), end) for end in ends]


def padded(pixels: Tensor, patch: int) -> Tensor:
    """Pads pixels [B, C, H, W] with zeros on all sides, as evenly as possible, to the next multiple of the patch."""
    height, width = pixels.shape[-2:]
    down, across = -height % patch, -width % patch
    return F.pad(pixels, (across // 2, across - across // 2, down // 2, down - down // 2))

"""Random crops of images together with their masks or depth maps."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mllm_eval.catalog import Preprocessing
from mllm_eval.catalog.probe import DepthProbe, SegmentationProbe
from mllm_eval.probes.views import Pixels, normalised

IGNORED = 255
Map = NDArray[Any]


def scaled_size(width: int, height: int, shorter: float) -> tuple[int, int]:
    """The width and height that give the shorter side the length `shorter`, at the same aspect ratio."""
    factor = shorter / min(width, height)
    return max(1, int(width * factor + 0.5)), max(1, int(height * factor + 0.5))


def segmentation_view(
    image: Image.Image, mask: NDArray[np.int64], protocol: SegmentationProbe, facts: Preprocessing,
    rng: np.random.Generator,
) -> tuple[Pixels, NDArray[np.int64]]:  # fmt: skip
    """A random crop of the rescaled image with its mask: pixels float32 [3, *crop], mask int64 [*crop].

    The crop may be mirrored, and its colours are distorted. Padding is `IGNORED` in the mask. Up to `tries` crops are
    drawn, until one has at least two classes and none with a share of `most` or more of the pixels that count; else the
    last one is used.
    """
    size = scaled_size(*image.size, protocol.shorter * rng.uniform(*protocol.ratio))
    image = image.resize(size, Image.Resampling.BILINEAR)
    labels = np.asarray(Image.fromarray(mask.astype(np.uint8)).resize(size, Image.Resampling.NEAREST))
    down, across = (min(edge, own) for edge, own in zip(protocol.crop, labels.shape, strict=True))
    for _ in range(protocol.tries):
        top = int(rng.integers(0, labels.shape[0] - down + 1))
        left = int(rng.integers(0, labels.shape[1] - across + 1))
        counts = np.bincount(labels[top : top + down, left : left + across].reshape(-1), minlength=IGNORED + 1)
        counts[IGNORED] = 0
        if np.count_nonzero(counts) > 1 and counts.max() / counts.sum() < protocol.most:
            break
    cut = np.asarray(image)[top : top + down, left : left + across]
    own = labels[top : top + down, left : left + across].astype(np.int64)
    if rng.random() < protocol.flip:
        cut, own = cut[:, ::-1], own[:, ::-1]
    pixels = np.zeros((3, *protocol.crop), np.float32)
    target = np.full(protocol.crop, IGNORED, np.int64)
    pixels[:, :down, :across] = normalised(distorted(cut, protocol, rng), facts)
    target[:down, :across] = own
    return pixels, target


def distorted(image: NDArray[np.uint8], protocol: SegmentationProbe, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Changes brightness, contrast, saturation and hue, each in half of the images; contrast comes first or last.

    RGB uint8 [H, W, 3]; as mmsegmentation's PhotoMetricDistortion.
    """
    values: NDArray[Any] = image.astype(np.float32)
    if rng.random() < 0.5:
        values += rng.uniform(-protocol.brightness, protocol.brightness)
    contrast, first = rng.uniform(*protocol.contrast) if rng.random() < 0.5 else 1.0, rng.random() < 0.5
    if first:
        values *= contrast
    saturation = rng.uniform(*protocol.saturation) if rng.random() < 0.5 else 1.0
    hue = rng.uniform(-protocol.hue, protocol.hue) if rng.random() < 0.5 else 0.0
    if saturation != 1.0 or hue:
        whole = Image.fromarray(np.rint(values.clip(0, 255)).astype(np.uint8)).convert("HSV")
        colours = np.asarray(whole).astype(np.float32)
        # A full circle of hue is 256 in PIL and 180 in the protocol.
        colours[..., 0] = (colours[..., 0] + hue * 256 / 180) % 256
        colours[..., 1] = (colours[..., 1] * saturation).clip(0, 255)
        values = np.asarray(Image.fromarray(colours.astype(np.uint8), "HSV").convert("RGB")).astype(np.float32)
    if not first:
        values = values.clip(0, 255) * contrast
    made: NDArray[np.uint8] = np.rint(values.clip(0, 255)).astype(np.uint8)
    return made


def depth_view(
    image: Image.Image, depth: NDArray[np.float32], protocol: DepthProbe, facts: Preprocessing,
    rng: np.random.Generator,
) -> tuple[Pixels, NDArray[np.float32]]:  # fmt: skip
    """A random crop of the image with its depth: pixels float32 [3, *crop], depth in metres float32 [*crop].

    The image may be rotated a little and mirrored, and its colours changed. Depth is 0 where it is not known, which
    includes the corners that a rotation fills in.
    """
    known = Image.fromarray(depth)
    if protocol.frame is not None:
        image, known = image.crop(protocol.frame), known.crop(protocol.frame)
    if rng.random() < protocol.rotate_share:
        angle = rng.uniform(-protocol.rotate, protocol.rotate)
        image = image.rotate(angle, Image.Resampling.BILINEAR)
        known = known.rotate(angle, Image.Resampling.NEAREST)
    cut, own = np.asarray(image), np.asarray(known)
    if rng.random() < protocol.flip:
        cut, own = cut[:, ::-1], own[:, ::-1]
    down, across = (min(edge, side) for edge, side in zip(protocol.crop, own.shape, strict=True))
    top, left = int(rng.integers(0, own.shape[0] - down + 1)), int(rng.integers(0, own.shape[1] - across + 1))
    cut, own = cut[top : top + down, left : left + across], own[top : top + down, left : left + across]
    if rng.random() < protocol.recolour:
        lit = (cut / 255.0) ** rng.uniform(*protocol.gamma) * rng.uniform(*protocol.brightness)
        colours = rng.uniform(*protocol.colour, size=3)
        cut = np.rint((lit * colours).clip(0, 1) * 255).astype(np.uint8)
    pixels, target = np.zeros((3, *protocol.crop), np.float32), np.zeros(protocol.crop, np.float32)
    pixels[:, :down, :across] = normalised(cut, facts)
    target[:down, :across] = own
    return pixels, target

"""Semantic segmentation: cross entropy at the size of the mask, sliding windows in tests, and counts per class."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from mllm_eval.catalog import Encoder
from mllm_eval.catalog.probe import SegmentationProbe
from mllm_eval.errors import UserError
from mllm_eval.probes.denseviews import IGNORED, scaled_size, segmentation_view
from mllm_eval.probes.examples import Example
from mllm_eval.probes.tasks import DenseTask, Logits, Tested
from mllm_eval.probes.views import normalised
from mllm_eval.probes.windows import windows

# Windows of an image per forward pass.
TOGETHER = 4


def mask_of(example: Example, classes: int, size: tuple[int, int]) -> NDArray[np.int64]:
    """The mask int64 [H, W] with classes from 0; `IGNORED` where the file has 0 (no class) or 255.

    `size` is the image's (width, height). Raises UserError, which names the file, for a value that is no class, another
    size than the image's, or a mask without any class.
    """
    values = example.values()
    if values.shape != (size[1], size[0]):
        raise UserError(f"{example.map_path}: {values.shape[1]} x {values.shape[0]}, the picture is "
                        f"{size[0]} x {size[1]}")  # fmt: skip
    strange = np.unique(values[((values > classes) & (values != IGNORED)) | (values < 0)])
    if len(strange):
        raise UserError(f"{example.map_path}: value {strange[0]} is no class; 1 to {classes} are, 0 and {IGNORED} are "
                        "ignored")  # fmt: skip
    mask = np.where((values == 0) | (values == IGNORED), IGNORED, values - 1)
    if (mask == IGNORED).all():
        raise UserError(f"{example.map_path}: every pixel is ignored")
    return mask


def counted(answer: Tensor, mask: Tensor, classes: int) -> Tested:
    """The pixels in the intersection and the union per class, of an answer and a mask [H, W] without ignored pixels."""
    from torchmetrics.functional.classification import multiclass_confusion_matrix

    # With deterministic algorithms torchmetrics builds a table of pixels x classes^2, 60 GB for a mask of ADE20K. They
    # are not needed here: integer sums are the same in any order.
    asked = torch.are_deterministic_algorithms_enabled()
    warned = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(False)
    try:
        table = multiclass_confusion_matrix(
            answer.reshape(-1), mask.reshape(-1), classes, ignore_index=IGNORED, validate_args=False
        )
    finally:
        torch.use_deterministic_algorithms(asked, warn_only=warned)
    counts = table.cpu().numpy().astype(np.int64)
    inside = np.diagonal(counts).copy()
    return Tested(inside=inside, union=counts.sum(0) + counts.sum(1) - inside)


class Segmentation(DenseTask):
    """The task of semantic segmentation by a batch norm and a linear layer."""

    batch_norm = True
    with_summary = False

    def __init__(self, protocol: SegmentationProbe, facts: Encoder) -> None:
        super().__init__(facts)
        self.protocol = protocol
        classes = next(iter(protocol.data.values())).classes
        if classes is None:
            raise UserError(f"probe {protocol.name}: its data say no `classes`")
        self.outputs = classes

    def view(self, example: Example, rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """A random crop and its mask; see `segmentation_view`."""
        image = example.image()
        mask = mask_of(example, self.outputs, image.size)
        return segmentation_view(image, mask, self.protocol, self.facts.preprocessing, rng)

    def loss(self, logits: Tensor, target: Tensor, step: int) -> Tensor:
        """Cross entropy summed over pixels that are not ignored and divided by all pixels, as in mmsegmentation."""
        whole = F.interpolate(logits, size=target.shape[1:], mode="bilinear", align_corners=False)
        return F.cross_entropy(whole, target, ignore_index=IGNORED, reduction="sum") / target.numel()

    def test(self, example: Example, logits: Logits) -> list[Tested]:
        """The counts per class of each head on an image.

        Logits are averaged where windows overlap; their softmax is averaged over scales and the mirror image.
        """
        image = example.image()
        mask = torch.from_numpy(mask_of(example, self.outputs, image.size))
        summed: list[Tensor] = []
        views = 0
        for scale in self.protocol.scales:
            size = scaled_size(*image.size, self.protocol.shorter * scale)
            pixels = torch.from_numpy(
                normalised(image.resize(size, Image.Resampling.BILINEAR), self.facts.preprocessing)
            )
            for mirrored in (False, True) if self.protocol.test_flip else (False,):
                seen = pixels.flip(2) if mirrored else pixels
                upright = [one.flip(2) if mirrored else one for one in self.slid(seen, logits)]
                whole = [
                    F.interpolate(one[None], size=tuple(mask.shape), mode="bilinear", align_corners=False)[0]
                    for one in upright
                ]
                views += 1
                # With a single view the argmax needs no softmax.
                shares = [one.softmax(0) for one in whole] if self._several else whole
                summed = shares if not summed else [a + b for a, b in zip(summed, shares, strict=True)]
        return [counted(one.argmax(0), mask.to(one.device), self.outputs) for one in summed]

    @property
    def _several(self) -> bool:
        return len(self.protocol.scales) > 1 or self.protocol.test_flip

    def slid(self, pixels: Tensor, logits: Logits) -> list[Tensor]:
        """The logits [C, H, W] of each head for pixels [3, H, W], averaged over the windows that cover a pixel."""
        height, width = pixels.shape[1:]
        places = windows(height, width, self.protocol.crop, self.protocol.stride)
        summed: list[Tensor] = []
        count = torch.zeros(1, height, width)
        for start in range(0, len(places), TOGETHER):
            some = places[start : start + TOGETHER]
            cut = torch.stack([pixels[:, top:bottom, left:right] for top, bottom, left, right in some])
            for number, made in enumerate(logits(cut)):
                whole = F.interpolate(made, size=tuple(cut.shape[2:]), mode="bilinear", align_corners=False)
                if number == len(summed):
                    summed.append(torch.zeros(whole.shape[1], height, width, device=whole.device))
                for (top, bottom, left, right), one in zip(some, whole, strict=True):
                    summed[number][:, top:bottom, left:right] += one
            for top, bottom, left, right in some:
                count[:, top:bottom, left:right] += 1
        return [one / count.to(one.device) for one in summed]

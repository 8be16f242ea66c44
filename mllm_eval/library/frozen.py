"""Computes features of images with a frozen encoder, without a run and without writing files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from io import IOBase
from itertools import islice
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import PIL.Image
import torch
from torch import Tensor

from mllm_eval import catalog
from mllm_eval.adapters import load_encoder_model
from mllm_eval.adapters.base import EncoderModel, FeatureMap
from mllm_eval.catalog import Encoder, Given
from mllm_eval.data.samples import ImageRef
from mllm_eval.decoding import load_image, to_rgb
from mllm_eval.environment import device as own_device
from mllm_eval.environment import settings
from mllm_eval.errors import UserError, is_whole, near
from mllm_eval.features.extraction import BATCH

Picture = str | PathLike[str] | PIL.Image.Image | ImageRef
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class LoadedEncoder:
    """An encoder with its weights. `load_encoder` makes it.

    Attributes:
        facts: the content of its yaml, a `mllm_eval.catalog.Encoder`.
        model: the frozen module in evaluation mode; maps pixels [B, 3, H, W] to one `FeatureMap` per layer.
    """

    def __init__(self, model: EncoderModel) -> None:
        self.model = model
        self.facts: Encoder = model.facts

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the weights."""
        return next(self.model.parameters()).dtype

    @property
    def tokens(self) -> int:
        """Tokens per image: rows times columns of the grid."""
        return self.facts.grid**2

    @property
    def width(self) -> int:
        """Dimensions of a token."""
        return self.facts.width

    def preprocess(self, image: Picture) -> Tensor:
        """Preprocess an image to float32 [3, size, size] on the CPU. Raises UserError if it is not an image."""
        return torch.from_numpy(self.model.preprocess(_rgb(image)))

    def encode(self, images: Picture | Iterable[Picture], batch: int = BATCH) -> Tensor:
        """Compute the image features that the projector receives: a tensor [N, tokens, width] on the CPU.

        Args:
            images: one or many image files (paths), Pillow images or images of a benchmark (`sample_frame`); each is
                preprocessed as the yaml says.
            batch: images per batch; it changes results only by rounding.

        Returns:
            Patches of the yaml's layer in the encoder's dtype, row by row, without CLS and registers. The final norm
            is applied if the yaml says so.

        Raises:
            UserError: no images, a file or an image that can't be read, an object that is not an image, or a batch
                that is not a number from 1.
        """
        return self.features(images, batch=batch)[0].patches.flatten(1, 2)

    @settings()
    def features(
        self, images: Picture | Iterable[Picture], layers: int | Iterable[int] = (), batch: int = BATCH
    ) -> list[FeatureMap]:
        """Compute patches [N, rows, columns, width] and summaries [N, width] on the CPU for each requested layer.

        Args:
            images, batch: as for `encode`.
            layers: one or several block numbers, from 1, or from the end as -1; by default only the yaml's layer.

        Raises:
            UserError: as `encode`, and for a layer that the encoder does not have.
        """
        if not is_whole(batch) or batch < 1:
            raise UserError(f"batch {batch!r}: give 1 or more images at a time")
        chosen = _block_numbers(layers)
        made: list[list[FeatureMap]] = []
        for pixels in self._batches(_several(images), batch):
            maps = self.model(pixels.to(self.device, self.dtype), chosen)
            made.append([FeatureMap(one.patches.cpu(), one.summary.cpu()) for one in maps])
        if not made:
            raise UserError("no images were given")
        return [
            FeatureMap(torch.cat([one.patches for one in layer]), torch.cat([one.summary for one in layer]))
            for layer in zip(*made, strict=True)
        ]

    def _batches(self, images: Iterable[Picture], batch: int) -> Iterator[Tensor]:
        coming = iter(images)
        while chosen := list(islice(coming, batch)):
            yield torch.stack([self.preprocess(image) for image in chosen])

    def __repr__(self) -> str:
        facts, dtype = self.facts, str(self.dtype).removeprefix("torch.")
        shape = f"{self.tokens} tokens of {self.width}, {dtype} on {self.device}"
        return f"<encoder {facts.name}: {facts.params:,} parameters, {shape}>"


@settings()
def load_encoder(
    encoder: Given | Encoder, device: str | torch.device | None = None, dtype: str = "float32"
) -> LoadedEncoder:
    """Load an encoder with its weights, frozen, and check its yaml against them.

    Args:
        encoder: a name that `mllm-eval encoders` lists, also `NAME@VARIANT`; a path to a yaml file; the content of one
            as a dict; or a `mllm_eval.catalog.Encoder`.
        device: `cpu`, `cuda` or `cuda:1`; by default the GPU if there is one.
        dtype: float32, bfloat16 or float16.

    Raises:
        UserError: an unknown name, weights that are missing or differ from the yaml, an unknown dtype, or a device
            that this machine does not have.
    """
    if dtype not in DTYPES:
        raise UserError(f"dtype {dtype!r} is unknown.{near(str(dtype), DTYPES)} Known: {', '.join(DTYPES)}")
    facts = catalog.load_encoder(encoder)
    place = _device(own_device() if device is None else device)
    model: Any = load_encoder_model(facts, DTYPES[dtype])
    return LoadedEncoder(model.to(place))


def _device(asked: str | torch.device) -> torch.device:
    try:
        place = torch.device(asked)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError, TypeError) as problem:
        first = str(problem).strip().splitlines()[0]
        raise UserError(f"device {str(asked)!r} is not on this machine ({first}); `cpu` is on every one") from None
    return place


def _several(images: Any) -> Iterable[Any]:
    """The images given: one becomes a list, and so does what would be iterated over other parts than images."""
    one = isinstance(images, str | PathLike | PIL.Image.Image | bytes | Mapping | IOBase)
    # An array has pixels, and a frame the names of its columns.
    if one or not isinstance(images, Iterable) or getattr(images, "ndim", 1) != 1:
        return [images]
    return images


def _block_numbers(layers: Any) -> tuple[int, ...]:
    numbers = tuple(layers) if isinstance(layers, Iterable) and not isinstance(layers, str) else (layers,)
    for number in numbers:
        if not is_whole(number):
            raise UserError(f"layer {number!r}: give the number of a block, from 1, or from the end as -1")
    return tuple(map(int, numbers))


def _rgb(image: Any) -> PIL.Image.Image:
    if isinstance(image, ImageRef):
        return image.load()
    if isinstance(image, PIL.Image.Image):
        if 0 in image.size:
            raise UserError(f"an image of {image.width} x {image.height} pixels shows nothing")
        try:
            return to_rgb(image)
        except (OSError, ValueError, SyntaxError) as problem:
            # Pillow decodes a file when its pixels are first used; some modes have no way to RGB.
            raise UserError(f"an image of Pillow (mode {image.mode}) can't be decoded ({problem})") from None
    if not isinstance(image, str | PathLike):
        raise UserError(f"{type(image).__name__} is no image; give a path or an image of Pillow")
    return load_image(Path(fspath(image)).expanduser())

"""Features of images that one has in hand, without a store, a run or a file written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import PIL.Image
import torch
from torch import Tensor

from mllm_eval.adapters import load_encoder_model
from mllm_eval.adapters.base import EncoderModel, FeatureMap
from mllm_eval.catalog import load_encoder
from mllm_eval.decoding import load_image, to_rgb
from mllm_eval.errors import UserError
from mllm_eval.features.extraction import BATCH

Picture = str | PathLike[str] | PIL.Image.Image


def encode_images(
    encoder: str | EncoderModel,
    images: Iterable[Picture],
    layers: Sequence[int] = (),
    batch: int = BATCH,
) -> list[FeatureMap]:
    """What an encoder sees in images: for each layer asked for, patches [N, h, w, D] and summaries [N, D] on the CPU.

    Args:
        encoder: a name as `mllm-eval encoders` lists them, a path to a yaml file, or what `load_encoder_model` gave
            (loaded once, used often, on the device and in the dtype that it has).
        images: paths of image files, or images of Pillow; they are preprocessed as the encoder's yaml says.
        layers: as `feature_layer` counts them, -1 the last block; by default that of the yaml alone.
        batch: images that are encoded at once.

    Raises:
        UserError: an unknown name, weights that are not here, an image that can't be read, no images, no such layer.
    """
    if isinstance(images, str | PathLike | PIL.Image.Image):
        images = [images]
    model = load_encoder_model(load_encoder(encoder)) if isinstance(encoder, str) else encoder
    weight = next(model.parameters())
    made: list[list[FeatureMap]] = []
    for pixels in _batches(model, images, batch):
        found = model(pixels.to(weight.device, weight.dtype), layers)
        made.append([FeatureMap(one.patches.cpu(), one.summary.cpu()) for one in found])
    if not made:
        raise UserError("no images were given")
    return [
        FeatureMap(torch.cat([one.patches for one in layer]), torch.cat([one.summary for one in layer]))
        for layer in zip(*made, strict=True)
    ]


def _batches(model: EncoderModel, images: Iterable[Picture], batch: int) -> Iterator[Tensor]:
    coming = iter(images)
    while chosen := list(islice(coming, batch)):
        yield torch.stack([torch.from_numpy(model.preprocess(_rgb(image))) for image in chosen])


def _rgb(image: Any) -> PIL.Image.Image:
    if isinstance(image, PIL.Image.Image):
        return to_rgb(image)
    if not isinstance(image, str | PathLike):
        raise UserError(f"{type(image).__name__} is no image; give a path or an image of Pillow")
    return load_image(Path(fspath(image)).expanduser())

"""Checks of a loaded encoder on a sample image: whether it matches its yaml, and how it must be preprocessed."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from mllm_eval.adapters.base import EncoderModel
from mllm_eval.adapters.preprocessing import to_pixels
from mllm_eval.catalog import Preprocessing

PROCESSORS = ("preprocessor_config.json", "processor_config.json")
# PIL's numbers of the filters, as strings, as processors' configs hold them.
RESAMPLE = {"2": "bilinear", "3": "bicubic"}
# Two implementations of one resize may differ by rounding; one 8-bit level is the smallest visible step.
SAME_LEVELS = 1.0


@dataclass
class Examination:
    """Results of the checks. Most are numbers; `differs` lists in words what differs from the usual.

    Attributes:
        repeatable: two passes over the same pixels gave the same bits.
        batch_difference: largest difference between a feature computed alone and in a batch of two.
        ordered: a change in the last patch moves the last token most; if cells overlap, that token or a neighbour.
        mean, std: over all features of all patches. median_norm, largest_norm: of the patches' feature vectors.
        processor: comparison with the processor beside the weights, one line per preprocessing; empty without one.
    """

    repeatable: bool
    batch_difference: float
    ordered: bool
    mean: float
    std: float
    median_norm: float
    largest_norm: float
    processor: list[str] = field(default_factory=list)
    differs: list[str] = field(default_factory=list)


def sample_image(width: int = 320, height: int = 240) -> Image.Image:
    """Make an RGB image without symmetry: colour gradients, with stripes on the right half."""
    rows, columns = np.mgrid[0:height, 0:width]
    red, green = columns / width, rows / height
    blue = 0.5 + 0.5 * np.sin(columns / 5) * (columns > width / 2)
    pixels = np.stack([red, green, blue], -1) * 255
    return Image.fromarray(pixels.astype(np.uint8))


def examine(model: EncoderModel, place: Path | None = None) -> Examination:
    """Check a loaded encoder on one image. place: the folder of its weights, to compare its processor with the yaml."""
    image = sample_image()
    weight = next(model.parameters())
    pixels = torch.from_numpy(model.preprocess(image))[None].to(weight.device, weight.dtype)
    first = model(pixels)[0].patches
    again = model(pixels)[0].patches
    changed = pixels.clone()
    size = model.facts.preprocessing.size
    # With `cells`, the last cell may reach beyond the image, so it ends at the image's edge.
    cell = model.facts.patch or size // model.grid
    edge = min(model.grid * cell, size)
    changed[..., edge - cell : edge, edge - cell : edge] += 2
    both = model(torch.cat([pixels, changed]))[0].patches
    moved = (both[1] - both[0]).float().norm(dim=-1)
    norms = first.float().norm(dim=-1).flatten()
    examination = Examination(
        repeatable=torch.equal(first, again),
        batch_difference=float((both[0] - first[0]).abs().max()),
        ordered=_at_the_end(moved, 1 if model.overlaps or model.facts.cells is not None else 0),
        mean=float(first.float().mean()),
        std=float(first.float().std()),
        median_norm=float(norms.median()),
        largest_norm=float(norms.max()),
    )
    examination.differs += _from_the_class(model, first, model.stock_patches(pixels))
    if place is not None:
        _compare_processor(examination, model, place, image)
    return examination


def _at_the_end(moved: Tensor, reach: int) -> bool:
    """Whether the maximum of a grid [h, w] is within `reach` rows and columns of the last corner."""
    row, column = divmod(int(moved.argmax()), moved.shape[1])
    return row >= moved.shape[0] - 1 - reach and column >= moved.shape[1] - 1 - reach


def _from_the_class(model: EncoderModel, patches: Tensor, stock: Tensor | None) -> list[str]:
    if stock is None or torch.allclose(patches.flatten(1, 2), stock, atol=1e-5):
        return []
    name = type(model.model).__name__
    facts = model.facts
    norm = "normed" if facts.norm else "not normed"
    return [f"features are not {name}'s last_hidden_state: layer {facts.feature_layer}, {norm}"]


def _compare_processor(examined: Examination, model: EncoderModel, place: Path, image: Image.Image) -> None:
    if not any((place / name).is_file() for name in PROCESSORS):
        return
    try:
        from transformers import AutoImageProcessor

        loading: Any = AutoImageProcessor.from_pretrained
        own: Any = loading(place, backend="pil", local_files_only=True, trust_remote_code=False)
        theirs = np.asarray(own(image, return_tensors="np")["pixel_values"][0], np.float32)
    except Exception as problem:
        reason = (str(problem).strip().splitlines() or [type(problem).__name__])[0]
        examined.differs.append(f"the processor beside the weights cannot be used ({reason})")
        return
    facts = model.facts
    ways: dict[str, Preprocessing] = {facts.preprocessing.mode: facts.preprocessing}
    ways |= {name: facts.variant(name).preprocessing for name in facts.variants}
    equal = []
    for name, way in ways.items():
        difference = _levels(to_pixels(image, way), theirs, way)
        if difference is None:
            examined.processor.append(f"{name}: {way.size} x {way.size} pixels, the processor gives {theirs.shape[-1]}")
            continue
        examined.processor.append(f"{name}: largest difference {difference:.1f} of 255 levels")
        equal += [name] if difference <= SAME_LEVELS else []
    if facts.preprocessing.mode not in equal:
        as_theirs = f"; variant {equal[0]} does as it does" if equal else ""
        examined.differs.append(f"the processor beside the weights makes other pixels than the yaml{as_theirs}")
    examined.differs += _other_settings(own, facts.preprocessing)


def _levels(mine: NDArray[np.float32], theirs: NDArray[np.float32], way: Preprocessing) -> float | None:
    """Largest difference in 8-bit levels between two normalised images [3, H, W]; None if their sizes differ."""
    if mine.shape != theirs.shape:
        return None
    return float((np.abs(mine - theirs) * np.asarray(way.std)[:, None, None]).max() * 255)


def _other_settings(own: Any, facts: Preprocessing) -> list[str]:
    said = {
        "mean": (_rounded(getattr(own, "image_mean", None)), _rounded(facts.mean)),
        "std": (_rounded(getattr(own, "image_std", None)), _rounded(facts.std)),
        "interpolation": (RESAMPLE.get(str(getattr(own, "resample", None))), facts.interpolation),
    }
    return [
        f"{name} is {theirs} in the processor beside the weights, {mine} in the yaml"
        for name, (theirs, mine) in said.items()
        if theirs is not None and theirs != mine
    ]


def _rounded(values: Any) -> str | None:
    if values is None:
        return None
    values = [values] * 3 if isinstance(values, int | float) else values
    return " ".join(f"{value:.4g}" for value in values)

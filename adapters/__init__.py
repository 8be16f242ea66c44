"""Encoders behind one contract. Each family is a file; it is imported when an encoder of it is loaded."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from mllm_eval.errors import UserError, near
from mllm_eval.hub import locked_folder, read_lock

if TYPE_CHECKING:
    import torch

    from mllm_eval.adapters.base import EncoderModel
    from mllm_eval.catalog import Encoder, Weights

FAMILIES = ("clip", "dinov2", "ijepa", "siglip", "timm", "vit")


def family(name: str) -> type[EncoderModel]:
    """The class of a family. Raises UserError with the nearest name."""
    if name not in FAMILIES:
        raise UserError(f"encoder family {name!r} is unknown.{near(name, FAMILIES)} Known: {', '.join(FAMILIES)}")
    found: type[EncoderModel] = importlib.import_module(f"mllm_eval.adapters.{name}").Family
    return found


def weights_place(weights: Weights) -> Path:
    """Where weights lie on this machine, a hub-format folder or one file; nothing is fetched.

    Raises UserError if they are missing, or not those of their lock.
    """
    place, source = weights.folder(), weights.source()
    if source is not None and read_lock(source) is not None:
        folder = locked_folder(source)
        return folder if place is None else folder / place.name
    if source is not None and (place is None or not place.exists()):
        raise UserError(f"{source}: the weights are not on this machine; {source.mend}")
    assert place is not None
    if not place.exists():
        raise UserError(f"{place}: no such folder or file of weights; correct `weights: path:` or make them")
    return place


def weights_folder(weights: Weights) -> Path:
    """The local hub-format folder of some weights; nothing is fetched. Raises UserError if it is missing."""
    place = weights_place(weights)
    if not place.is_dir():
        raise UserError(f"{place}: is a file, where a folder in hub format is needed")
    return place


def load_encoder_model(encoder: Encoder, dtype: torch.dtype | None = None) -> EncoderModel:
    """The frozen encoder in evaluation mode, float32 unless told otherwise; its yaml is checked.

    Raises UserError for an unknown family, missing or unreadable weights, and facts that do not match.
    """
    import torch

    from mllm_eval.kernels import quick

    return quick(family(encoder.family).load(encoder, weights_place(encoder.weights), dtype or torch.float32))

"""Encoders behind one contract. Each family is a file; it is imported when an encoder of it is loaded."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from mllm_eval.errors import UserError, near

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

    Raises UserError if they are missing.
    """
    place = weights.folder()
    if place is not None:
        if not place.exists():
            fetch = f"fetch them first from {weights.url}" if weights.url else "correct `weights: path:` or make them"
            raise UserError(f"{place}: no such folder or file of weights; {fetch}")
        return place
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    assert weights.repo is not None
    try:
        return Path(snapshot_download(weights.repo, revision=weights.revision, local_files_only=True))
    except LocalEntryNotFoundError:
        revision = f" --revision {weights.revision}" if weights.revision else ""
        raise UserError(
            f"{weights.repo}@{weights.revision or 'main'}: the weights are not on this machine; fetch them first "
            f"(hf download {weights.repo}{revision})"
        ) from None


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

    return family(encoder.family).load(encoder, weights_place(encoder.weights), dtype or torch.float32)

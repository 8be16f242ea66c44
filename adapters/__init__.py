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

FAMILIES = ("clip", "dinov2", "ijepa", "siglip", "vit")


def family(name: str) -> type[EncoderModel]:
    """The class of a family. Raises UserError with the nearest name."""
    if name not in FAMILIES:
        raise UserError(f"encoder family {name!r} is unknown.{near(name, FAMILIES)} Known: {', '.join(FAMILIES)}")
    found: type[EncoderModel] = importlib.import_module(f"mllm_eval.adapters.{name}").Family
    return found


def weights_folder(weights: Weights) -> Path:
    """The local hub-format folder of some weights; nothing is fetched. Raises UserError if it is missing."""
    folder = weights.folder()
    if folder is not None:
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder of weights; correct `weights: path:` or make them")
        return folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    assert weights.repo is not None
    try:
        return Path(snapshot_download(weights.repo, revision=weights.revision, local_files_only=True))
    except LocalEntryNotFoundError:
        raise UserError(
            f"{weights.repo}@{weights.revision}: the weights are not on this machine; fetch them first "
            f"(hf download {weights.repo} --revision {weights.revision})"
        ) from None


def load_encoder_model(encoder: Encoder, dtype: torch.dtype | None = None) -> EncoderModel:
    """The frozen encoder in evaluation mode, float32 unless told otherwise; its yaml is checked.

    Raises UserError for an unknown family, missing or unreadable weights, and facts that do not match.
    """
    import torch

    return family(encoder.family).load(encoder, weights_folder(encoder.weights), dtype or torch.float32)

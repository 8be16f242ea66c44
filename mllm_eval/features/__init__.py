"""Encode every image once per encoder, and read its features from disk from then on."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mllm_eval.features.extraction import extract
    from mllm_eval.features.source import Features
    from mllm_eval.features.store import FeatureStore

__all__ = ["FeatureStore", "Features", "extract"]


PLACES = {"FeatureStore": "store", "Features": "source", "extract": "extraction"}


def __getattr__(name: str) -> Any:
    # Imported lazily, as maintenance of stores and planning must not import torch.
    if name in PLACES:
        return getattr(import_module(f"mllm_eval.features.{PLACES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

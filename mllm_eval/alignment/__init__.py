"""Alignment of vision encoders with language models: whether images and their captions have the same neighbours."""

from __future__ import annotations

from typing import Any

__all__ = ["Alignment", "align", "load_alignment"]


def __getattr__(name: str) -> Any:
    # Imported on first use: the measurement needs torch, the protocol does not.
    if name == "align":
        from mllm_eval.alignment.measure import align

        return align
    if name in ("Alignment", "load_alignment"):
        from mllm_eval.alignment import protocol

        return getattr(protocol, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

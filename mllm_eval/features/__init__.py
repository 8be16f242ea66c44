"""Features: every image is encoded once per encoder, ever, and read from disk after that."""

from __future__ import annotations

from mllm_eval.features.extraction import Features, extract
from mllm_eval.features.store import FeatureStore

__all__ = ["FeatureStore", "Features", "extract"]

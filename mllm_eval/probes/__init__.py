"""Probes of classic vision: they measure what a simple head reads from an encoder's frozen features.

Each probe is a protocol in configs/probes. `measure` runs one probe on one encoder; `mllm_eval.pipeline.probeflow`
provides the data and calls it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mllm_eval.probes.examples import Example, Examples
    from mllm_eval.probes.layouts import read_examples
    from mllm_eval.probes.measuring import measure

__all__ = ["Example", "Examples", "measure", "read_examples"]

PLACES = {"Example": "examples", "Examples": "examples", "read_examples": "layouts", "measure": "measuring"}


def __getattr__(name: str) -> Any:
    # Imported on first use, since reading a layout needs no torch.
    if name in PLACES:
        return getattr(import_module(f"mllm_eval.probes.{PLACES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

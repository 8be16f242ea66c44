"""Runs, external models and imported answers, each with a folder under results/runs."""

from __future__ import annotations

from mllm_eval.run.folder import External, RunFolder, read_manifest
from mllm_eval.run.trained import Run, RunConfig

__all__ = ["External", "Run", "RunConfig", "RunFolder", "read_manifest"]

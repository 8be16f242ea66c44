"""Finds and reads DeepSpeed's JSON files in configs/deepspeed, by name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mllm_eval.catalog.folders import roots
from mllm_eval.errors import UserError, near
from mllm_eval.storage import parse_json


@dataclass(frozen=True, slots=True)
class DeepspeedFile:
    """A JSON of DeepSpeed's settings, as it is on disk."""

    path: Path
    config: dict[str, Any]

    def section(self, name: str) -> dict[str, Any]:
        """Return one of its objects by name; {} where it is missing or no object."""
        section = self.config.get(name) or {}
        return section if isinstance(section, dict) else {}

    @property
    def zero_stage(self) -> int:
        """What ZeRO shards: 0 nothing, 1 the optimiser's states, 2 the gradients too, 3 the weights too."""
        stage = self.section("zero_optimization").get("stage", 0)
        return stage if isinstance(stage, int) else 0

    @property
    def offloads(self) -> bool:
        """Whether the optimiser's states are kept in the memory of the host."""
        offload = self.section("zero_optimization").get("offload_optimizer")
        return isinstance(offload, dict) and offload.get("device", "none") != "none"


def read_deepspeed(name: str) -> DeepspeedFile:
    """Read a JSON of configs/deepspeed.

    Raises UserError, with the nearest known name, for an unknown one, and for a file that is no JSON object.
    """
    files: dict[str, Path] = {}
    for root in reversed(roots()):
        files |= {path.stem: path for path in (root / "configs" / "deepspeed").glob("*.json")}
    if name not in files:
        raise UserError(f"deepspeed config {name!r} is unknown.{near(name, files)} Known: {', '.join(files)}")
    path = files[name]
    try:
        config = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise UserError(f"{path}: cannot be read as JSON ({problem})") from None
    if not isinstance(config, dict):
        raise UserError(f"{path}: holds a {type(config).__name__}, not DeepSpeed's settings")
    return DeepspeedFile(path, config)

"""How many positions an LLM was made for; needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from mllm_eval.storage import parse_json


def position_limit(config: Any) -> int | None:
    """The longest row of tokens by a transformers config, or None where it says none.

    `max_position_embeddings` counts those before a linear or dynamic stretching of rotary positions.
    """
    limit = getattr(config, "max_position_embeddings", None)
    if not isinstance(limit, int):
        return None
    parameters = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None)
    rope: Mapping[str, Any] = parameters if isinstance(parameters, Mapping) else {}
    if rope.get("rope_type", rope.get("type")) in ("linear", "dynamic"):
        return int(limit * float(rope.get("factor", 1.0)))
    return limit


# Under which names a model for images and text keeps its LLM's config.
_PARTS = ("text_config", "llm_config", "language_config", "thinker_config")


def positions_in(folder: Path) -> int | None:
    """`position_limit` of the model in a folder, by its config.json; None where there is none, or it says nothing."""
    try:
        config = parse_json((folder / "config.json").read_text(encoding="utf-8"), fields_once=False)
    except (OSError, ValueError):
        return None
    if not isinstance(config, dict):
        return None
    while isinstance(part := next((config[name] for name in _PARTS if config.get(name)), None), dict):
        config = part
    return position_limit(SimpleNamespace(**config))

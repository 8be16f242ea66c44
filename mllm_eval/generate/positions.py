"""Read an LLM's maximum sequence length from its config. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from mllm_eval.storage import parse_json


def position_limit(config: Any) -> int | None:
    """Return the maximum sequence length, in tokens, by a transformers config; None where it states none.

    `max_position_embeddings` is multiplied by the factor of linear or dynamic RoPE scaling, which it excludes.
    """
    limit = getattr(config, "max_position_embeddings", None)
    if not isinstance(limit, int):
        return None
    parameters = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None)
    rope: Mapping[str, Any] = parameters if isinstance(parameters, Mapping) else {}
    if rope.get("rope_type", rope.get("type")) in ("linear", "dynamic"):
        return int(limit * float(rope.get("factor", 1.0)))
    return limit


# Names under which configs of vision-language models hold the LLM's config.
_PARTS = ("text_config", "llm_config", "language_config", "thinker_config")


def positions_in(folder: Path) -> int | None:
    """Return `position_limit` for a folder's config.json; None where it is missing, unreadable or states none."""
    try:
        config = parse_json((folder / "config.json").read_text(encoding="utf-8"), fields_once=False)
    except (OSError, ValueError):
        return None
    if not isinstance(config, dict):
        return None
    while isinstance(part := next((config[name] for name in _PARTS if config.get(name)), None), dict):
        config = part
    return position_limit(SimpleNamespace(**config))

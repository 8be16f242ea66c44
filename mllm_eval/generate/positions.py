"""How many positions an LLM was made for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def position_limit(config: Any) -> int | None:
    """The longest row of tokens by a transformers config, or None where it says none.

    `max_position_embeddings` counts those before a linear or dynamic stretching of rotary positions.
    """
    limit = getattr(config, "max_position_embeddings", None)
    if not isinstance(limit, int):
        return None
    found = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None)
    rope: Mapping[str, Any] = found if isinstance(found, Mapping) else {}
    if rope.get("rope_type", rope.get("type")) in ("linear", "dynamic"):
        return int(limit * float(rope.get("factor", 1.0)))
    return limit

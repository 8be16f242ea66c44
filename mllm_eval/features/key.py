"""What names a store: everything that decides a feature's bits, and nothing else.

The LLM, the seed and whatever else a recipe says are not in the key: runs that differ in these read the same store.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mllm_eval.config import short_hash

if TYPE_CHECKING:
    from mllm_eval.catalog import Encoder, Recipe
    from mllm_eval.catalog.recipe import Kernels

# Heads and activation (`architecture`) are nowhere in the bytes of an original checkpoint.
FIELDS: tuple[str, ...] = (
    "family",
    "feature_layer",
    "norm",
    "summary",
    "preprocessing",
    "patch",
    "width",
    "architecture",
)
# Only an encoder of one's own may have these.
FIELDS += ("code", "cells")
DTYPES = ("float32", "float16", "bfloat16")


def stored_dtype(recipe: Recipe) -> str:
    """The dtype a recipe's features are kept in: `features_dtype`, else that of the computing."""
    return recipe.features_dtype or recipe.dtype


def key_of(
    encoder: Encoder, digest: str, dtype: str, computed: str | None = None, kernels: Kernels = "auto"
) -> dict[str, Any]:
    """The key of an encoder whose weights have this digest; `computed` is the encoder's dtype where it differs."""
    facts = encoder.model_dump(mode="json", include=set(FIELDS))
    differs = {"computed": computed} if computed not in (None, dtype) else {}
    asked = {"kernels": kernels} if kernels != "auto" else {}
    return {"weights": digest, "dtype": dtype, **differs, **asked, **facts}


def folder_name(key: dict[str, Any]) -> str:
    """16 hex digits."""
    return short_hash(key, 16)

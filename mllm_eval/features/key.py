"""The key of a feature store: everything that decides a feature's bits, and nothing else.

The LLM, the seed and the rest of a recipe are not part of the key, so runs that differ only in these share a store.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mllm_eval.config import short_hash

if TYPE_CHECKING:
    from mllm_eval.catalog import Encoder, Recipe
    from mllm_eval.catalog.recipe import Kernels

# `architecture` (heads, activation) is listed because the weights of an original checkpoint do not determine it.
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
# Only encoders defined by the user's own code have these fields.
FIELDS += ("code", "cells")
DTYPES = ("float32", "float16", "bfloat16")


def stored_dtype(recipe: Recipe) -> str:
    """Return the dtype in which a recipe's features are stored: `features_dtype`, else `dtype`."""
    return recipe.features_dtype or recipe.dtype


def key_of(
    encoder: Encoder, digest: str, dtype: str, computed: str | None = None, kernels: Kernels = "auto"
) -> dict[str, Any]:
    """Return the key of an encoder whose weights have this digest.

    dtype: of the stored features. computed: of the encoder, where it differs.
    """
    facts = encoder.model_dump(mode="json", include=set(FIELDS))
    differs = {"computed": computed} if computed not in (None, dtype) else {}
    asked = {"kernels": kernels} if kernels != "auto" else {}
    return {"weights": digest, "dtype": dtype, **differs, **asked, **facts}


def folder_name(key: dict[str, Any]) -> str:
    """Return the folder's name: 16 hex digits of the key's hash."""
    return short_hash(key, 16)

"""Finds the columns of a parquet file that can hold images, in img2dataset's layout and in the hub's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mllm_eval.data.columntypes import type_name

if TYPE_CHECKING:
    import pyarrow as pa

# img2dataset names the column of the bytes by the image format that it writes.
BYTES = ("jpg", "jpeg", "png", "webp", "image", "img", "image_bytes", "bytes")


def image_columns(schema: pa.Schema) -> list[str]:
    """The columns of the hub's type `image`, and those of bytes that are named as columns of images are."""
    kinds = [(str(field.name), type_name(field.type)) for field in schema]
    return [
        name
        for name, kind in kinds
        if kind == "image" or (kind in ("binary", "large_binary") and name.lower() in BYTES)
    ]

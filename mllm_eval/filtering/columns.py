"""Finds the columns of a parquet file that hold image, key and caption, in img2dataset's layout and in the hub's."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from mllm_eval.data.columntypes import type_name
from mllm_eval.data.imagecolumns import image_columns
from mllm_eval.errors import UserError, near

if TYPE_CHECKING:
    import pyarrow as pa

KEYS = ("key", "__key__", "id", "image_id", "uid")
CAPTIONS = ("txt", "caption", "text", "TEXT")
# Columns where img2dataset says why an image could not be downloaded.
STATUS = ("status", "error_message")


class NoColumn(UserError):
    """A parquet file has no column of images, or none with the asked name."""


class ShardColumns(NamedTuple):
    """The names of the columns. `key` is None if rows are identified by their number."""

    image: str
    key: str | None
    captions: tuple[str, ...]
    status: tuple[str, ...]

    @property
    def read(self) -> tuple[str, ...]:
        """All columns to read."""
        return (self.image, *([self.key] if self.key else []), *self.captions, *self.status)


def columns_of(schema: pa.Schema, path: str, image: str | None = None) -> ShardColumns:
    """The columns of a file. `image` names the column of the images, if several could hold them.

    Raises NoColumn if `image` is unknown or of another type, and without it if no column qualifies; UserError if
    several qualify.
    """
    kinds = {field.name: type_name(field.type) for field in schema}
    possible = image_columns(schema)
    if image is not None:
        if image not in kinds:
            raise NoColumn(f"{path}: has no column {image!r}.{near(image, kinds)}")
        if kinds[image] not in ("image", "binary", "large_binary"):
            raise NoColumn(f"{path}: column {image!r} is {kinds[image]}; pictures are binary, or image of the hub")
    elif len(possible) != 1:
        reason = f"several could be it ({', '.join(possible)})" if possible else f"none of {', '.join(kinds)} is it"
        kind = UserError if possible else NoColumn
        raise kind(f"{path}: which column holds the pictures? {reason}; say --image-column")
    key = next((name for name in KEYS if name in kinds), None)
    texts = tuple(name for name in CAPTIONS if kinds.get(name) == "string")
    return ShardColumns(image or possible[0], key, texts, tuple(name for name in STATUS if name in kinds))


def hold_to_label(schema: pa.Schema, path: str, label: str | None) -> None:
    """Raises NoColumn if there is no column `label`."""
    if label is not None and label not in schema.names:
        raise NoColumn(f"{path}: has no column {label!r} for --label.{near(label, schema.names)}")

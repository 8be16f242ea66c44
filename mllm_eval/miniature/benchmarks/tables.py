"""Parquet files as the hub has them: Arrow types, and the features that `datasets` reads from the metadata."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

Record = Mapping[str, Any]
_SCALARS = {
    "string": pa.string(),
    "bool": pa.bool_(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "float64": pa.float64(),
}
_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def png(image: Image.Image, level: int = 6) -> bytes:
    """The image as PNG; the same pixels give the same bytes."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=level)
    return buffer.getvalue()


def cell(image: Image.Image, path: str | None = None) -> dict[str, Any]:
    """An image cell as `datasets` stores it: the encoded file and its name."""
    return {"bytes": png(image), "path": path}


def _inner(kind: str) -> str:
    return kind[kind.index("<") + 1 : -1]


def _fields(kind: str) -> list[tuple[str, str]]:
    """The (name, type) pairs of "struct<name: type, ...>", split at the commas of its own level."""
    parts, depth, start = [], 0, 0
    text = _inner(kind)
    for at, char in enumerate(text + ","):
        depth += (char == "<") - (char == ">")
        if char == "," and depth == 0:
            parts.append(text[start:at].strip())
            start = at + 1
    return [(part.partition(":")[0].strip(), part.partition(":")[2].strip()) for part in parts]


def arrow_type(kind: str) -> pa.DataType:
    """The Arrow type of "string", "image", "list<...>", "struct<name: type, ...>" and the like."""
    if kind == "image":
        return _IMAGE
    if kind.startswith("list<"):
        return pa.list_(arrow_type(_inner(kind)))
    if kind.startswith("struct<"):
        return pa.struct([(name, arrow_type(inner)) for name, inner in _fields(kind)])
    return _SCALARS[kind]


def feature(kind: str) -> dict[str, Any]:
    """The same type as `datasets` writes it down in a file's metadata."""
    if kind == "image":
        return {"_type": "Image"}
    if kind.startswith("list<"):
        return {"feature": feature(_inner(kind)), "_type": "List"}
    if kind.startswith("struct<"):
        return {name: feature(inner) for name, inner in _fields(kind)}
    return {"dtype": kind, "_type": "Value"}


def write_table(path: Path, columns: Mapping[str, str], rows: Sequence[Record]) -> None:
    """Write rows as one parquet file with these columns (name -> type), in this order.

    A row must have every column and no other; None is null. KeyError or ValueError says which is wrong.
    """
    for row in rows:
        if extra := row.keys() - columns.keys():
            raise ValueError(f"{path.name}: unknown columns {sorted(extra)}")
    schema = pa.schema(
        [(name, arrow_type(kind)) for name, kind in columns.items()],
        metadata={"huggingface": json.dumps({"info": {"features": {n: feature(k) for n, k in columns.items()}}})},
    )
    arrays = [pa.array([row[name] for row in rows], type=schema.field(name).type) for name in columns]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_arrays(arrays, schema=schema), path, row_group_size=100)

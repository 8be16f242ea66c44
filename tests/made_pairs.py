"""Small sets of pictures with captions, in parquet files, with a protocol of alignment that reads them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from mllm_eval.alignment.protocol import Alignment
from mllm_eval.catalog.folders import folders
from mllm_eval.config import load


def picture(colour: int) -> bytes:
    """A png of 8 x 8 pixels."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (colour, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def written(folder: Path, rows: list[dict[str, Any]], name: str = "image") -> str:
    """Writes rows with `image` and `text`, and a protocol whose data `own` they are; returns the path of its yaml."""
    folder.mkdir(exist_ok=True)
    table = pa.table({name: [row["image"] for row in rows], "text": [row["text"] for row in rows]})
    pq.write_table(table, folder / "pairs.parquet")
    protocol = folder / "own.yaml"
    protocol.write_text(f"base: platonic\nname: own\nneighbours: 2\ndata:\n  own: {{path: {folder}}}\n")
    return str(protocol)


def good(count: int) -> list[dict[str, Any]]:
    """Rows that differ in colour, and in a number in the caption."""
    return [{"image": {"bytes": picture(at), "path": None}, "text": [f"number {at}"]} for at in range(count)]


def own_protocol(path: str) -> Alignment:
    """The protocol in a yaml file."""
    return load(Path(path), Alignment, folders("alignments"))


def scenes(folder: Path, count: int = 40) -> str:
    """Pictures of the miniature with their captions, as a protocol of its own."""
    from mllm_eval.miniature.benchmarks.tables import png
    from mllm_eval.miniature.world import KINDS, draw

    kinds = list(KINDS)
    shown = [draw("test", at // len(kinds), kinds[at % len(kinds)]) for at in range(count)]
    return written(folder, [{"image": {"bytes": png(one.image), "path": None}, "text": [one.caption]} for one in shown])

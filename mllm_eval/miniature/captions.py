"""1,024 rendered pictures with their captions, in the layout of the hub's set for alignment."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mllm_eval.locks import made_whole
from mllm_eval.miniature.benchmarks.tables import cell, write_table
from mllm_eval.miniature.world import KINDS, draw
from mllm_eval.storage import data_home, sha256_bytes, sha256_tree

PAIRS = 1024
SERIES = "captions"
VERSION = "VERSION"
Progress = Callable[[str, int, int], None]


def version() -> str:
    """Changes when the code that draws changes, or the number of pairs."""
    drawn = sha256_tree(Path(__file__).parent / "world", lambda path: path.suffix == ".py")
    return sha256_bytes(f"{drawn} {PAIRS}".encode())[:16]


def build(home: Path | None = None, progress: Progress | None = None) -> Path:
    """Write `captions/pairs.parquet` under `home` (default: `data_home()`) unless it is there in this version.

    Columns: `image` (struct of bytes and path) and `text` (list with one caption). No two captions are equal, so that
    a caption has one picture. Kinds of pictures come in turn.
    """
    home = home or data_home()
    target = home / "captions"
    with made_whole(target, VERSION, version()) as making:
        if making is not None:
            write_table(making / "pairs.parquet", {"image": "image", "text": "list<string>"}, _rows(progress))
    return target


def _rows(progress: Progress | None) -> list[dict[str, object]]:
    kinds, rows, said = list(KINDS), list[dict[str, object]](), set[str]()
    index = 0
    while len(rows) < PAIRS:
        picture = draw(SERIES, index // len(kinds), kinds[index % len(kinds)])
        index += 1
        if picture.caption in said:
            continue
        said.add(picture.caption)
        rows.append({"image": cell(picture.image, f"{len(rows):04d}.png"), "text": [picture.caption]})
        if progress is not None and len(rows) % 128 == 0:
            progress(SERIES, len(rows), PAIRS)
    return rows

"""Soft random pictures that stand for photographs, copies of them, and training sets and shards that hold them."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps


def picture(seed: int, size: tuple[int, int] = (120, 96)) -> Image.Image:
    """A soft random picture: like no other, and with structure at all sizes."""
    rng = np.random.default_rng(seed)
    layers = [
        np.asarray(
            Image.fromarray(rng.integers(0, 255, (cells, cells, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC),
            np.float32,
        )
        for cells in (3, 6, 12)
    ]
    return Image.fromarray((0.5 * layers[0] + 0.3 * layers[1] + 0.2 * layers[2]).astype(np.uint8))


def encoded(image: Image.Image, kind: str = "PNG", **how: Any) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, **how)
    return data.getvalue()


def recompressed(image: Image.Image) -> Image.Image:
    return Image.open(io.BytesIO(encoded(image, "JPEG", quality=40))).convert("RGB")


def resized(image: Image.Image) -> Image.Image:
    return image.resize((image.width * 6 // 10, image.height * 6 // 10))


def cropped(image: Image.Image) -> Image.Image:
    """Nine tenths of each side, off the middle."""
    return image.crop((3, 7, 3 + image.width * 9 // 10, 7 + image.height * 9 // 10))


KINDS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "recompressed": recompressed,
    "resized": resized,
    "cropped": cropped,
    "flipped": ImageOps.mirror,
    "all": lambda image: recompressed(resized(cropped(ImageOps.mirror(image)))),
}


def training_set(home: Path, shown: Mapping[str, Image.Image], asked: Mapping[str, str] | None = None) -> Path:
    """Writes images and train.jsonl with a row for each of them, and one for each question of `asked` and its image."""
    images = home / "images"
    images.mkdir(exist_ok=True)
    rows = []
    for at, (name, image) in enumerate(shown.items()):
        image.save(images / name)
        rows.append({"id": str(at), "image": name, "conversations": [
            {"from": "human", "value": "<image>\nWhat is this?"}, {"from": "gpt", "value": "sand"}]})  # fmt: skip
    for at, (text, name) in enumerate((asked or {}).items()):
        rows.append({"id": f"asked{at}", "image": name, "conversations": [
            {"from": "human", "value": text}, {"from": "gpt", "value": "3"}]})  # fmt: skip
    path = home / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def written(path: Path, image: Image.Image | bytes) -> None:
    """Replaces a file, at a modification time that no earlier version of it has."""
    before = path.stat().st_mtime_ns if path.exists() else 0
    path.write_bytes(image if isinstance(image, bytes) else encoded(image))
    os.utime(path, ns=(before + 10**9, before + 10**9))


def tarred(files: dict[str, bytes]) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as shard:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            shard.addfile(member, io.BytesIO(content))
    return data.getvalue()

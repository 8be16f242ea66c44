"""Thumbnails of both images of a pair, so that the report can show them without the training data."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import PIL.Image

from mllm_eval.data.samples import ImageRef
from mllm_eval.errors import UserError
from mllm_eval.leaks.corpora import SearchedCorpus
from mllm_eval.leaks.hashing import Hashed
from mllm_eval.leaks.matching import Pairs, images_of, load
from mllm_eval.storage import write_atomic

EDGE = 240


def write_thumbnails(
    pairs: Pairs, pictures: Sequence[ImageRef], corpus: SearchedCorpus, hashed: Hashed, folder: Path
) -> None:
    """Writes `p-SHA256.webp` and `c-NUMBER.webp` for the images of these pairs; unreadable images get none."""
    for number in np.unique(pairs.picture).tolist():
        name = folder / picture_name(pictures[number])
        if not name.is_file():
            try:
                _write(pictures[number].load(), name)
            except UserError:
                continue
    images = np.unique(pairs.image)
    for at, shown in images_of(corpus, hashed, images):
        name = folder / image_name(int(images[at]))
        if not name.is_file():
            try:
                _write(load(shown, corpus), name)
            except UserError:
                continue


def picture_name(picture: ImageRef) -> str:
    """The thumbnail's file name for a benchmark's image, by its content."""
    return f"p-{picture.sha256[:16]}.webp"


def image_name(image: int) -> str:
    """The thumbnail's file name for an image of the corpus, by its number."""
    return f"c-{image:09d}.webp"


def _write(picture: PIL.Image.Image, path: Path) -> None:
    picture.thumbnail((EDGE, EDGE))
    data = io.BytesIO()
    picture.save(data, "WEBP", quality=80)
    write_atomic(path, data.getvalue())

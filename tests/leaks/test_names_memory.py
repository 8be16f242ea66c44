"""How many bytes an image takes where all images of a corpus are listed, at two sizes."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from peak_memory import held, peak

from mllm_eval.decoding import PLAIN
from mllm_eval.leaks.corpora import Shown
from mllm_eval.leaks.hashing import hash_corpus, kept_pieces
from mllm_eval.leaks.pieces import save
from mllm_eval.leaks.trainingsets import IMAGE, ROWS, write_distinct
from mllm_eval.progress import unheard

FEW, MANY = 2 * ROWS, 10 * ROWS


def parts(folder: Path, count: int) -> list[Path]:
    """The images of so many rows; a tenth of them is there twice, in another part or in the same."""
    rng = np.random.default_rng(count)
    keys = rng.integers(0, 2**64, count, dtype=np.uint64)
    keys[rng.integers(0, count, count // 10)] = keys[rng.integers(0, count, count // 10)]
    paths = []
    for start in range(0, count, ROWS):
        images = np.zeros(min(ROWS, count - start), IMAGE)
        images["key"], images["row"] = keys[start : start + ROWS], np.arange(start, start + len(images))
        paths.append(folder / f"{count}-{start:09d}.npz")
        save(paths[-1], {"images": images, "broken": np.zeros(0, np.str_)})
    return paths


@pytest.mark.parametrize("count", [0, 1, ROWS + 5])
def test_each_name_is_listed_once_where_it_comes_first(count: int, tmp_path: Path) -> None:
    paths = parts(tmp_path, count)
    write_distinct(paths, tmp_path / "images.npy")
    every: NDArray[Any] = np.concatenate([np.zeros(0, IMAGE), *(np.load(path)["images"] for path in paths)])
    first = np.sort(np.unique(every["key"], return_index=True)[1])
    assert np.array_equal(np.load(tmp_path / "images.npy"), every[first])
    assert count < ROWS or len(first) < count


@pytest.mark.slow
def test_listing_names_takes_a_key_and_little_more_a_name(tmp_path: Path) -> None:
    few, many = parts(tmp_path, FEW), parts(tmp_path, MANY)
    peaks = [peak(lambda paths=paths: write_distinct(paths, tmp_path / "images.npy")) for paths in (few, many)]  # type: ignore[misc]
    # Keys, which are there twice while they are put together, and a mark.
    assert (peaks[1] - peaks[0]) / (MANY - FEW) < 18


class Hashed:
    """A corpus whose pieces are hashed already."""

    name, identity, how = "hashed", "hashed", PLAIN

    def __init__(self, folder: Path, pieces: int) -> None:
        self.pieces = pieces
        for piece in range(pieces):
            some = np.random.default_rng(piece).integers(0, 2**64, ROWS, dtype=np.uint64)
            save(kept_pieces(folder) / f"{piece:06d}.npz", {
                "hash": some, "good": np.arange(ROWS) % 100 > 0, "broken": np.array(ROWS // 100),
                "reasons": np.array(["broken"], np.str_), "state": np.array("0")})  # fmt: skip

    def state(self, piece: int) -> str:
        return "0"

    def images(self, piece: int, wanted: Collection[int] | None = None) -> Iterator[Shown]:
        raise AssertionError("is hashed already")


@pytest.mark.slow
def test_hashes_take_eight_bytes_an_image_and_their_numbers_another_eight(tmp_path: Path) -> None:
    sizes = []
    for pieces in (2, 10):
        corpus = Hashed(tmp_path / str(pieces), pieces)
        load = lambda corpus=corpus, pieces=pieces: hash_corpus(corpus, tmp_path / str(pieces), unheard)  # noqa: E731
        sizes.append((held(load)[1], peak(load)))
    images = 8 * ROWS
    assert (sizes[1][0] - sizes[0][0]) / images < 16.5
    assert (sizes[1][1] - sizes[0][1]) / images < 19

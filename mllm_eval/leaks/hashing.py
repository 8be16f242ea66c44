"""Hashes a whole corpus, saved piece by piece, and a benchmark's images in all views."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from mllm_eval.config import short_hash
from mllm_eval.data.samples import ImageRef
from mllm_eval.decoding import decode, decoders
from mllm_eval.errors import UserError
from mllm_eval.leaks.corpora import SearchedCorpus, Shown
from mllm_eval.leaks.hashes import EDGE, NAME, VIEWS, Hashes, hash_of, hashes_of_views
from mllm_eval.leaks.pieces import save, saved
from mllm_eval.progress import Progress

T = TypeVar("T")
R = TypeVar("R")
# Images per thread that are read ahead.
AHEAD = 4


class Hashed(NamedTuple):
    """The hashes of the readable images of a corpus, and their positions.

    hashes: uint64 [n]. image: int64 [n], the number of each image in the corpus, over all pieces. begins: int64 [pieces
    + 1], the number of each piece's first image. broken: how many images can't be read; reasons: the first ones. state:
    identifies the bytes of all pieces (`SearchedCorpus.state`).
    """

    hashes: Hashes
    image: NDArray[np.int64]
    begins: NDArray[np.int64]
    broken: int
    reasons: tuple[str, ...]
    state: str

    @property
    def images(self) -> int:
        """The number of all images, including unreadable ones."""
        return int(self.begins[-1])

    def place(self, image: int) -> tuple[int, int]:
        """The piece of an image, and its number within the piece."""
        piece = int(np.searchsorted(self.begins, image, side="right")) - 1
        return piece, image - int(self.begins[piece])


def hash_corpus(corpus: SearchedCorpus, folder: Path, told: Progress, named: int = 3) -> Hashed:
    """Hashes the images that are not hashed yet, or that changed. `folder` keeps one file per piece.

    A killed run resumes from these files. A piece whose state is no longer the one it was hashed in is hashed again.

    `named`: how many reasons of unreadable images are returned.
    """
    hashes: list[Hashes] = []
    good: list[NDArray[np.bool_]] = []
    broken = 0
    kept = kept_pieces(folder)
    reasons: list[str] = []
    states: list[str] = []
    with ThreadPoolExecutor(decoders(), "hash") as hands:
        for piece in range(corpus.pieces):
            path = kept / f"{piece:06d}.npz"
            # Before the images are read: if one changes meanwhile, the next run sees it.
            states.append(corpus.state(piece))
            arrays = saved(path) if path.is_file() else {}
            if str(arrays.get("state")) != states[-1]:
                save(path, {**_hash_piece(corpus, piece, hands), "state": np.array(states[-1])})
                arrays = saved(path)
            reasons += [str(one) for one in arrays["reasons"][: max(0, named - len(reasons))]]
            hashes.append(arrays["hash"][arrays["good"]])
            good.append(arrays["good"])
            broken += int(arrays["broken"])
            told(piece + 1, corpus.pieces)
    begins = np.cumsum([0, *map(len, good)])
    whole = np.concatenate([np.zeros(0, np.uint64), *hashes])
    # Freed before the positions are made, so that memory holds two arrays of 8 bytes an image.
    hashes.clear()
    image = np.flatnonzero(np.concatenate([np.zeros(0, bool), *good]))
    return Hashed(whole, image, begins, broken, tuple(reasons), short_hash(states, 16))


def kept_pieces(folder: Path) -> Path:
    """The folder of the pieces of these hashes."""
    return folder / short_hash([NAME, EDGE], 8)


def _hash_piece(corpus: SearchedCorpus, piece: int, hands: ThreadPoolExecutor) -> dict[str, NDArray[Any]]:
    """The hashes by number in the piece. A piece that ends early adds one to the unreadable images."""
    made: dict[int, int] = {}
    reasons: list[str] = []

    def one(shown: Shown) -> int | UserError:
        try:
            return hash_of(decode(shown.encoded(), _at(shown), corpus.how))
        except UserError as problem:
            return problem

    last = -1
    try:
        for shown, hashed in in_order(hands, one, corpus.images(piece)):
            last = shown.number
            if isinstance(hashed, UserError):
                reasons.append(str(hashed))
            else:
                made[shown.number] = hashed
    except UserError as problem:
        # A truncated shard: the images before the cut are kept.
        reasons.append(str(problem))
    hashes = np.zeros(max(last, *made, -1) + 1 if made else last + 1, np.uint64)
    good = np.zeros(len(hashes), bool)
    for number, bits in made.items():
        hashes[number], good[number] = bits, True
    return {"hash": hashes, "good": good, "broken": np.array(len(reasons)), "reasons": np.array(reasons[:100], np.str_)}


def _at(shown: Shown) -> str:
    return shown.where if shown.name in shown.where else f"{shown.where}, {shown.name}"


def in_order(hands: ThreadPoolExecutor, do: Callable[[T], R], items: Iterable[T]) -> Iterator[tuple[T, R]]:
    """Applies `do` to the items in threads, some items ahead, and yields (item, result) in order.

    A UserError of `items` is raised after all results.
    """
    waiting: deque[tuple[T, Future[R]]] = deque()
    coming, problem = iter(items), None
    while True:
        try:
            item = next(coming)
        except StopIteration:
            break
        except UserError as error:
            problem = error
            break
        waiting.append((item, hands.submit(do, item)))
        if len(waiting) > AHEAD * decoders():
            first, future = waiting.popleft()
            yield first, future.result()
    while waiting:
        first, future = waiting.popleft()
        yield first, future.result()
    if problem is not None:
        raise problem


class Viewed(NamedTuple):
    """A benchmark's images: uint64 [P, views] hashes of the readable ones, these images, and why others failed."""

    views: NDArray[np.uint64]
    pictures: list[ImageRef]
    broken: list[str]


def hash_views(pictures: Sequence[ImageRef], folder: Path, told: Progress) -> Viewed:
    """Hashes a benchmark's images in all views. The result is saved in `folder`, by the images' contents."""
    path = folder / f"{short_hash([NAME, EDGE, VIEWS, [one.sha256 for one in pictures]], 16)}.npz"
    if not path.is_file():
        save(path, _hash_views(pictures, told))
    arrays = saved(path)
    kept = [one for one, good in zip(pictures, arrays["good"], strict=True) if good]
    return Viewed(arrays["views"], kept, [str(one) for one in arrays["reasons"]])


def _hash_views(pictures: Sequence[ImageRef], told: Progress) -> dict[str, NDArray[Any]]:
    def one(ref: ImageRef) -> Hashes | UserError:
        try:
            return hashes_of_views(ref.load())
        except UserError as problem:
            return problem

    views: list[Hashes] = []
    good: list[bool] = []
    reasons: list[str] = []
    with ThreadPoolExecutor(decoders(), "hash") as hands:
        for done, (_, hashed) in enumerate(in_order(hands, one, pictures), 1):
            good.append(not isinstance(hashed, UserError))
            if isinstance(hashed, UserError):
                reasons.append(str(hashed))
            else:
                views.append(hashed)
            told(done, len(pictures))
    rows = np.stack(views) if views else np.zeros((0, len(VIEWS)), np.uint64)
    return {"views": rows, "good": np.array(good, bool), "reasons": np.array(reasons, np.str_)}

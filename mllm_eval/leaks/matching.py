"""Candidates by hash, and which of them an encoder confirms."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from mllm_eval.data.samples import ImageRef
from mllm_eval.decoding import decode
from mllm_eval.errors import UserError
from mllm_eval.leaks.corpora import Corpus, Shown
from mllm_eval.leaks.hashes import VIEWS
from mllm_eval.leaks.hashing import Hashed, Viewed
from mllm_eval.leaks.search import nearest
from mllm_eval.progress import Progress

if TYPE_CHECKING:
    from mllm_eval.leaks.confirming import Calibration, Judge

# Images of a corpus whose summaries are held at a time.
BLOCK = 4096


class Tolerance(NamedTuple):
    """Bits of 64 in which the hashes of candidates differ at most (0 to 20), and the share of pairs of different
    pictures that may pass the threshold of similarity."""

    radius: int = 10
    alarm: float = 0.001


class Pairs(NamedTuple):
    """[n] pairs: number of the benchmark's picture, of the corpus' image, of the view, bits apart, similarity (nan:
    not looked at). total: pairs near by their hashes, those beyond the nearest of a picture too."""

    picture: NDArray[np.int64]
    image: NDArray[np.int64]
    view: NDArray[np.int64]
    distance: NDArray[np.uint8]
    similarity: NDArray[np.float32]
    total: int

    def where(self, kept: NDArray[np.bool_]) -> Pairs:
        """Those of a mask, the most similar first."""
        order = np.flatnonzero(kept)
        order = order[np.argsort(-self.similarity[order], kind="stable")]
        return Pairs(self.picture[order], self.image[order], self.view[order], self.distance[order],
                     self.similarity[order], self.total)  # fmt: skip


def candidates(hashed: Hashed, viewed: Viewed, radius: int, most: int) -> Pairs:
    """Pairs of a benchmark's picture, in any view, and an image whose hashes differ in at most `radius` bits."""
    picture, place, view, distance, total = nearest(hashed.hashes, viewed.views, radius, most)
    unknown = np.full(len(picture), np.nan, np.float32)
    return Pairs(picture, hashed.image[place], view, distance, unknown, int(total.sum()))


def confirm(
    pairs: Pairs,
    viewed: Viewed,
    hashed: Hashed,
    corpus: Corpus,
    judge: Judge,
    tolerance: Tolerance,
    told: Progress,
) -> tuple[Pairs, Calibration | None]:
    """The pairs with their similarities, and the threshold, where there are any.

    The picture is compared in the view in which its hash is nearest. A picture that can't be read again has nan.
    """
    from mllm_eval.leaks.confirming import CALIBRATED, calibrate, directions

    if not len(pairs.picture):
        return pairs, None
    chosen = np.linspace(0, len(viewed.pictures) - 1, min(CALIBRATED, len(viewed.pictures))).astype(int)
    rows = list(judge.summaries(viewed.pictures[at].load for at in chosen))
    good = [at for at, row in enumerate(rows) if row is not None]
    known = np.stack([row for row in rows if row is not None])
    calibration = calibrate(known, viewed.views[chosen[good]], tolerance.radius, tolerance.alarm)
    shown, of_pair = np.unique(np.stack([pairs.picture, pairs.view]), axis=1, return_inverse=True)
    seen = _stacked(judge.summaries(_views(viewed.pictures, shown)), calibration.mean.shape[0])
    seen = directions(seen, calibration.mean)
    similarity = pairs.similarity.copy()
    images, own = np.unique(pairs.image, return_inverse=True)
    for start in range(0, len(images), BLOCK):
        some = images[start : start + BLOCK]
        loads, place = _loads(corpus, hashed, some)
        summaries = np.full((len(some), len(calibration.mean)), np.nan, np.float32)
        # The summaries first: the list of what came grows as they are computed.
        for row, number in zip(judge.summaries(loads), place, strict=False):
            if row is not None:
                summaries[number] = row
        summaries = directions(summaries, calibration.mean)
        asked = np.flatnonzero((own >= start) & (own < start + len(some)))
        for at in range(0, len(asked), BLOCK):
            part = asked[at : at + BLOCK]
            similarity[part] = (seen[of_pair.reshape(-1)[part]] * summaries[own[part] - start]).sum(1)
        told(min(start + BLOCK, len(images)), len(images))
    return pairs._replace(similarity=similarity), calibration


def _stacked(rows: Iterator[NDArray[np.float32] | None], width: int) -> NDArray[np.float32]:
    nothing = np.full(width, np.nan, np.float32)
    return np.stack([nothing if row is None else row for row in rows])


def _views(pictures: list[ImageRef], shown: NDArray[np.int64]) -> Iterator[Callable[[], PIL.Image.Image]]:
    def load(picture: int, view: int) -> PIL.Image.Image:
        return VIEWS[view].of(pictures[picture].load())

    return (partial(load, picture, view) for picture, view in shown.T.tolist())


def _loads(
    corpus: Corpus, hashed: Hashed, images: NDArray[np.int64]
) -> tuple[Iterator[Callable[[], PIL.Image.Image]], list[int]]:
    """What decodes each of those images (ascending), as they come; and, filled along the way, which of them came."""
    came: list[int] = []

    def loads() -> Iterator[Callable[[], PIL.Image.Image]]:
        for number, shown in images_of(corpus, hashed, images):
            came.append(number)
            yield partial(load, shown, corpus)

    return loads(), came


def load(shown: Shown, corpus: Corpus) -> PIL.Image.Image:
    """An image of a corpus, decoded as it is trained on."""
    return decode(shown.encoded(), shown.where, corpus.how)


def images_of(corpus: Corpus, hashed: Hashed, images: NDArray[np.int64]) -> Iterator[tuple[int, Shown]]:
    """Those images (numbers in the corpus, ascending) with their place in the list; what can't be read is left out."""
    at = {int(image): number for number, image in enumerate(images)}
    by_piece: dict[int, set[int]] = {}
    for image in at:
        piece, number = hashed.place(image)
        by_piece.setdefault(piece, set()).add(number)
    for piece, wanted in sorted(by_piece.items()):
        try:
            for shown in corpus.images(piece, wanted):
                yield at[int(hashed.begins[piece]) + shown.number], shown
        except UserError:
            continue

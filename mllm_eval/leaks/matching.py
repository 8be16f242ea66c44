"""Finds candidates by hash, and computes which of them an encoder confirms."""

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
from mllm_eval.leaks.corpora import SearchedCorpus, Shown
from mllm_eval.leaks.hashes import VIEWS
from mllm_eval.leaks.hashing import Hashed, Viewed
from mllm_eval.leaks.search import nearest
from mllm_eval.progress import Progress, unheard

if TYPE_CHECKING:
    from mllm_eval.leaks.confirming import Calibration, SummaryEncoder

# Number of the corpus's images whose summaries are in memory at a time.
BLOCK = 4096


class Tolerance(NamedTuple):
    """The largest distance in bits (0 to 20 of 64) between the hashes of candidates, and the share of false alarms.

    `alarm` is the share of pairs of different images that may exceed the similarity threshold.
    """

    radius: int = 10
    alarm: float = 0.001


USUAL = Tolerance()


class Pairs(NamedTuple):
    """n pairs of a benchmark's image and an image of the corpus.

    picture, image, view: [n] numbers of both images and of the view. distance: [n] in bits. similarity: [n], nan if not
    compared. total: number of pairs within the radius, including those beyond an image's nearest that are not listed.
    """

    picture: NDArray[np.int64]
    image: NDArray[np.int64]
    view: NDArray[np.int64]
    distance: NDArray[np.uint8]
    similarity: NDArray[np.float32]
    total: int

    def where(self, kept: NDArray[np.bool_]) -> Pairs:
        """The pairs selected by a mask [n], most similar first."""
        order = np.flatnonzero(kept)
        order = order[np.argsort(-self.similarity[order], kind="stable")]
        return self.at(order)

    def at(self, places: NDArray[np.int64] | slice) -> Pairs:
        """The pairs at these places."""
        return Pairs(self.picture[places], self.image[places], self.view[places], self.distance[places],
                     self.similarity[places], self.total)  # fmt: skip


def candidates(hashed: Hashed, viewed: Viewed, radius: int, most: int) -> Pairs:
    """Pairs of a benchmark's image, in any view, and a corpus image whose hashes differ in at most `radius` bits.

    At most the `most` nearest pairs of each image are listed.
    """
    picture, place, view, distance, total = nearest(hashed.hashes, viewed.views, radius, most)
    unknown = np.full(len(picture), np.nan, np.float32)
    return Pairs(picture, hashed.image[place], view, distance, unknown, int(total.sum()))


def confirm(
    pairs: Pairs,
    viewed: Viewed,
    hashed: Hashed,
    corpus: SearchedCorpus,
    judge: SummaryEncoder,
    tolerance: Tolerance,
    told: Progress,
) -> tuple[Pairs, Calibration | None]:
    """The pairs with their similarities, and the calibration of the threshold; None without pairs."""
    if not len(pairs.picture):
        return pairs, None
    calibration = calibrated(viewed, judge, tolerance)
    return compared(pairs, viewed, hashed, corpus, judge, calibration.mean, told), calibration


def calibrated(viewed: Viewed, judge: SummaryEncoder, tolerance: Tolerance) -> Calibration:
    """The threshold from pairs of some of the pictures, evenly chosen. Raises UserError if none can be read again."""
    from mllm_eval.leaks.confirming import CALIBRATED, calibrate

    chosen = np.linspace(0, len(viewed.pictures) - 1, min(CALIBRATED, len(viewed.pictures))).astype(int)
    rows = list(judge.summaries(viewed.pictures[at].load for at in chosen))
    good = [at for at, row in enumerate(rows) if row is not None]
    if not good:
        raise UserError("none of the pictures of the pairs can be read any more; mend that and start again")
    known = np.stack([row for row in rows if row is not None])
    return calibrate(known, viewed.views[chosen[good]], tolerance.radius, tolerance.alarm)


def compared(
    pairs: Pairs,
    viewed: Viewed,
    hashed: Hashed,
    corpus: SearchedCorpus,
    judge: SummaryEncoder,
    mean: NDArray[np.float32],
    told: Progress = unheard,
) -> Pairs:
    """The pairs with their similarities: cosines of the summaries, centred on `mean` [D].

    The benchmark's image is compared in the view with the nearest hash. The similarity is nan if an image can't be read
    again.
    """
    from mllm_eval.leaks.confirming import directions

    shown, of_pair = np.unique(np.stack([pairs.picture, pairs.view]), axis=1, return_inverse=True)
    seen = _stacked(judge.summaries(_views(viewed.pictures, shown)), mean.shape[0])
    seen = directions(seen, mean)
    similarity = pairs.similarity.copy()
    images, own = np.unique(pairs.image, return_inverse=True)
    for start in range(0, len(images), BLOCK):
        some = images[start : start + BLOCK]
        loads, place = _loads(corpus, hashed, some)
        summaries = np.full((len(some), len(mean)), np.nan, np.float32)
        # `zip` must advance the summaries first, since `place` is filled while they are computed.
        for row, number in zip(judge.summaries(loads), place, strict=False):
            if row is not None:
                summaries[number] = row
        summaries = directions(summaries, mean)
        asked = np.flatnonzero((own >= start) & (own < start + len(some)))
        for at in range(0, len(asked), BLOCK):
            part = asked[at : at + BLOCK]
            similarity[part] = (seen[of_pair.reshape(-1)[part]] * summaries[own[part] - start]).sum(1)
        told(min(start + BLOCK, len(images)), len(images))
    return pairs._replace(similarity=similarity)


def _stacked(rows: Iterator[NDArray[np.float32] | None], width: int) -> NDArray[np.float32]:
    nothing = np.full(width, np.nan, np.float32)
    return np.stack([nothing if row is None else row for row in rows])


def _views(pictures: list[ImageRef], shown: NDArray[np.int64]) -> Iterator[Callable[[], PIL.Image.Image]]:
    def load(picture: int, view: int) -> PIL.Image.Image:
        return VIEWS[view].of(pictures[picture].load())

    return (partial(load, picture, view) for picture, view in shown.T.tolist())


def _loads(
    corpus: SearchedCorpus, hashed: Hashed, images: NDArray[np.int64]
) -> tuple[Iterator[Callable[[], PIL.Image.Image]], list[int]]:
    """Functions that decode each of these images (ascending numbers), and a list of the places of those that were read.

    The list is filled while the functions are consumed.
    """
    came: list[int] = []

    def loads() -> Iterator[Callable[[], PIL.Image.Image]]:
        for number, shown in images_of(corpus, hashed, images):
            came.append(number)
            yield partial(load, shown, corpus)

    return loads(), came


def load(shown: Shown, corpus: SearchedCorpus) -> PIL.Image.Image:
    """Decodes an image of a corpus in the same way as training does."""
    return decode(shown.encoded(), shown.where, corpus.how)


def names_of(corpus: SearchedCorpus, hashed: Hashed, images: NDArray[np.int64]) -> dict[int, tuple[str, str]]:
    """Number -> name and place of the images with these numbers, as often as each is listed; unreadable ones lack."""
    distinct = np.unique(images)
    return {int(distinct[at]): (one.name, one.where) for at, one in images_of(corpus, hashed, distinct)}


def images_of(corpus: SearchedCorpus, hashed: Hashed, images: NDArray[np.int64]) -> Iterator[tuple[int, Shown]]:
    """The images with these numbers (ascending), each with its place in `images`; unreadable pieces are skipped."""
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

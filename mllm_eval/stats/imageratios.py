"""Values that are ratios of sums over images: accuracy, mean errors, mean IoU. Functions from arrays to numbers.

The value is the mean over terms of (sum of the images' numerators) / (sum of their denominators). A term whose
denominators are all 0 is left out, as mean IoU leaves out a class that no image has. Images are resampled and terms
are not, because another test set would have other images of the same classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mllm_eval.stats.bootstrap import DRAWS, Interval, draw_weights, interval
from mllm_eval.stats.estimator import Floats
from mllm_eval.stats.significance import two_sided

FLIPS = 20_000
_CELLS = 8_000_000


@dataclass(frozen=True, slots=True)
class ImageSums:
    """Each image's contribution: `numerator` and `denominator` [N, T], both 0 for a failed image.

    top: largest possible value, if it is known and the smallest is 0.
    """

    numerator: Floats
    denominator: Floats
    top: float | None = None

    @classmethod
    def of_scores(cls, scores: Floats, scale: float = 1.0, top: float | None = None) -> ImageSums:
        """Make the sums from one score per image [N], nan for a failed image: the value is their mean times `scale`.
        top: largest possible value, if it is known and the smallest is 0."""
        valid = np.isfinite(scores)
        return cls(np.where(valid, scores, 0.0)[:, None] * scale, valid[:, None].astype(np.float64), top)

    @property
    def still(self) -> bool:
        """Whether every image contributes the same, as when all answers are right."""
        known = self.numerator[(self.denominator > 0).any(1)]
        return bool(len(known) and (known == known[0]).all()) and self.numerator.shape[1] == 1

    @property
    def value(self) -> float:
        """The value; nan if no term has a denominator."""
        return float(_ratio(self.numerator.sum(0)[None], self.denominator.sum(0)[None])[0])

    @property
    def valid(self) -> int:
        """Number of images with a denominator."""
        return int((self.denominator > 0).any(1).sum())

    def only(self, kept: npt.NDArray[np.bool_]) -> ImageSums:
        """The sums of the images that `kept` [N] marks; all others count as failed."""
        return ImageSums(self.numerator * kept[:, None], self.denominator * kept[:, None], self.top)


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    """[draws] means over terms of the ratios of sums [draws, T]."""
    here = denominator > 0
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = np.where(here, numerator / np.where(here, denominator, 1.0), 0.0).sum(1) / here.sum(1)
    return np.asarray(shares, dtype=np.float64)


def image_draws(several: list[ImageSums], draws: int = DRAWS, seed: int = 0) -> Floats:
    """[R, draws] bootstrap values of R results on the same images. Draw i uses the same images for all results.

    Raises ValueError if the numbers of images differ.
    """
    count = len(several[0].numerator)
    if any(len(one.numerator) != count for one in several):
        raise ValueError("results on different images cannot be drawn together")
    columns = np.concatenate([np.concatenate([one.numerator, one.denominator], 1) for one in several], 1)
    columns = columns.astype(np.float32)
    out, at = np.empty((len(several), draws)), 0
    for weights in draw_weights(np.zeros(count, np.int64), draws, seed):
        sums, place = (weights @ columns).astype(np.float64), 0
        for number, one in enumerate(several):
            terms = one.numerator.shape[1]
            parts = sums[:, place : place + 2 * terms]
            out[number, at : at + len(weights)] = _ratio(parts[:, :terms], parts[:, terms:])
            place += 2 * terms
        at += len(weights)
    return out


def image_interval(sums: ImageSums, draws: Floats, level: float = 0.95) -> Interval:
    """Percentile interval of the value, extended to contain it; nan for fewer than two images with a denominator.

    If all images are equal, the bootstrap interval is a point, which would claim certainty. The limits are then those
    of Clopper & Pearson (1934) if the value's range is known, and nan otherwise.
    """
    if sums.valid < 2 or (sums.still and sums.top is None):
        return Interval(sums.value, float("nan"), float("nan"))
    if sums.still:
        slack = sums.top * (1.0 - ((1.0 - level) / 2.0) ** (1.0 / sums.valid)) if sums.top else 0.0
        return Interval(sums.value, max(0.0, sums.value - slack), min(sums.top or 0.0, sums.value + slack))
    limits = interval(sums.value, draws, level)
    return Interval(sums.value, min(limits.low, sums.value), max(limits.high, sums.value))


@dataclass(frozen=True, slots=True)
class ImagePair:
    """The difference a - b on the `n` images that both results have, its interval, and a two-sided p-value."""

    difference: Interval
    p: float
    n: int


def image_pair(a: ImageSums, b: ImageSums, draws: int = DRAWS, flips: int = FLIPS, seed: int = 0) -> ImagePair:
    """Bootstrap interval of a - b, and a permutation test that exchanges the two results image by image."""
    both = np.asarray((a.denominator > 0).any(1) & (b.denominator > 0).any(1))
    a, b = a.only(both), b.only(both)
    observed = a.value - b.value
    if both.sum() < 2:
        return ImagePair(Interval(observed, float("nan"), float("nan")), float("nan"), int(both.sum()))
    drawn = image_draws([a, b], draws, seed)
    limits = interval(observed, drawn[0] - drawn[1])
    held = Interval(observed, min(limits.low, observed), max(limits.high, observed))
    return ImagePair(held, two_sided(observed, _exchanged(a, b, flips, seed + 1)), int(both.sum()))


def _exchanged(a: ImageSums, b: ImageSums, flips: int, seed: int) -> Floats:
    """[flips] differences after the two results were exchanged on a random half of the images."""
    first = np.concatenate([a.numerator, a.denominator], 1)
    second = np.concatenate([b.numerator, b.denominator], 1)
    half, gap, terms = (first + second).sum(0) / 2, ((first - second) / 2).astype(np.float32), a.numerator.shape[1]
    rng, out, count = np.random.default_rng(seed), np.empty(flips), len(first)
    step = max(1, _CELLS // count)
    for start in range(0, flips, step):
        rows = min(step, flips - start)
        bits = np.unpackbits(rng.integers(0, 256, size=(rows, -(-count // 8)), dtype=np.uint8), axis=1)[:, :count]
        moved = (2.0 * bits.astype(np.float32) - 1.0) @ gap
        one, other = half + moved, half - moved
        out[start : start + rows] = _ratio(one[:, :terms], one[:, terms:]) - _ratio(other[:, :terms], other[:, terms:])
    return out

"""Values that are sums over images and then ratios: accuracy, mean errors, mean IoU. Arrays in, numbers out.

The value is the mean over terms of (sum of an image's numerators) / (sum of its denominators); a term whose
denominators are all 0 is left out, as a class that no image has is left out of mean IoU. Images are resampled, not
terms: another test set has other images of the same classes.
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
    """What each image adds: `numerator` and `denominator` [N, T]; an image that failed has 0 in both."""

    numerator: Floats
    denominator: Floats
    top: float | None = None

    @classmethod
    def of_scores(cls, scores: Floats, scale: float = 1.0, top: float | None = None) -> ImageSums:
        """Of one number an image [N], nan where it failed: the value is their mean times `scale`; `top` is the most
        that it can be, where it is known and 0 is the least."""
        valid = np.isfinite(scores)
        return cls(np.where(valid, scores, 0.0)[:, None] * scale, valid[:, None].astype(np.float64), top)

    @property
    def still(self) -> bool:
        """Whether every image adds the same, as where all answers are right."""
        known = self.numerator[(self.denominator > 0).any(1)]
        return bool(len(known) and (known == known[0]).all()) and self.numerator.shape[1] == 1

    @property
    def value(self) -> float:
        """The value; nan where no term has a denominator."""
        return float(_ratio(self.numerator.sum(0)[None], self.denominator.sum(0)[None])[0])

    @property
    def valid(self) -> int:
        """Images that say something."""
        return int((self.denominator > 0).any(1).sum())

    def only(self, kept: npt.NDArray[np.bool_]) -> ImageSums:
        """These images [N] (True is kept), the others as if they had failed."""
        return ImageSums(self.numerator * kept[:, None], self.denominator * kept[:, None], self.top)


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    """[draws] the means over terms of sums [draws, T]."""
    here = denominator > 0
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = np.where(here, numerator / np.where(here, denominator, 1.0), 0.0).sum(1) / here.sum(1)
    return np.asarray(shares, dtype=np.float64)


def image_draws(several: list[ImageSums], draws: int = DRAWS, seed: int = 0) -> Floats:
    """[R, draws] bootstrap values of R results on the same images; draw i is of the same images for all.

    Raises ValueError where the numbers of images differ.
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
    """Percentile interval of the value, which it holds; nan where fewer than two images say something.

    Where all images are alike the bootstrap is a point, which would claim certainty: the limits are those of Clopper &
    Pearson (1934) then, of a value whose range is known, and nan otherwise.
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
    """The difference a - b on the images that both have, its interval, and a two-sided p-value."""

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
    """[flips] differences with the two results exchanged on a random half of the images."""
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

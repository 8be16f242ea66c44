"""Confirms that two images are the same by an encoder: cosine of their centred summaries above a threshold."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray

from mllm_eval.adapters import load_encoder_model
from mllm_eval.adapters.base import EncoderModel
from mllm_eval.catalog import Encoder
from mllm_eval.decoding import decoders
from mllm_eval.environment import device
from mllm_eval.errors import UserError
from mllm_eval.features.extraction import BATCH

Floats = NDArray[np.float32]
# Number of a benchmark's images that the threshold is calibrated on, and of different images compared with each.
CALIBRATED, ALIKE = 1024, 8


class SummaryEncoder:
    """An encoder that is loaded at its first use."""

    def __init__(self, encoder: Encoder) -> None:
        self.facts = encoder
        self._model: EncoderModel | None = None

    @torch.no_grad()
    def summaries(self, pictures: Iterable[Callable[[], PIL.Image.Image]]) -> Iterator[Floats | None]:
        """The summary float32 [D] of each image, as the encoder's yaml declares it; None if the image can't be read."""
        if self._model is None:
            self._model = load_encoder_model(self.facts).to(device())
        model: Any = self._model
        weight = next(model.parameters())

        def pixels(load: Callable[[], PIL.Image.Image]) -> NDArray[np.float32] | None:
            try:
                preprocessed: NDArray[np.float32] = model.preprocess(load())
            except (UserError, OSError, ValueError):
                return None
            return preprocessed

        coming = iter(pictures)
        with ThreadPoolExecutor(decoders(), "decode") as hands:
            while some := list(islice(coming, BATCH * 4)):
                read = list(hands.map(pixels, some))
                whole = [one for one in read if one is not None]
                made: list[Floats] = []
                for start in range(0, len(whole), BATCH):
                    (seen,) = model(torch.from_numpy(np.stack(whole[start : start + BATCH])).to(weight))
                    made += list(seen.summary.float().cpu().numpy())
                rows = iter(made)
                for one in read:
                    yield None if one is None else next(rows)


class Calibration(NamedTuple):
    """The threshold for pairs of a benchmark, and what it was computed from.

    mean: the mean summary [D]. pairs: number of pairs known to be different. threshold: the similarity that a copy must
    exceed. alarm: share of different pairs that may exceed it, at least 1 / `pairs`. The last two are None without such
    pairs.
    """

    mean: Floats
    pairs: int
    threshold: float | None
    alarm: float | None


def calibrate(summaries: Floats, views: NDArray[np.uint64], radius: int, alarm: float) -> Calibration:
    """Computes the similarity threshold that a share `alarm` of pairs of different images exceeds.

    Args:
        summaries: [n, D] of some images of the benchmark.
        views: [n, V] uint64, the hashes of their views.
        radius: largest distance in bits between candidates.

    Two images count as different if no view of one is within the radius of the other. For each image, the eight
    different images with the nearest hashes are used: a benchmark's images resemble each other, so they give a strict
    threshold.
    """
    mean = summaries.mean(0)
    unit = directions(summaries, mean)
    similarities: list[NDArray[np.float32]] = []
    for number in range(len(views)):
        apart = np.bitwise_count(views[number][:, None] ^ views[None, :, 0]).min(0).astype(np.int64)
        apart[number] = 0
        others = np.flatnonzero(apart > radius)
        others = others[np.argsort(apart[others], kind="stable")][:ALIKE]
        similarities.append(unit[others] @ unit[number])
    similarity = np.concatenate(similarities) if similarities else np.zeros(0, np.float32)
    if not len(similarity):
        return Calibration(mean, 0, None, None)
    threshold = float(np.quantile(similarity, 1 - alarm, method="higher"))
    return Calibration(mean, len(similarity), threshold, max(alarm, 1 / len(similarity)))


def directions(summaries: Floats, mean: Floats) -> Floats:
    """The summaries [n, D] minus the mean, scaled to length 1."""
    about = summaries - mean
    length = np.linalg.norm(about, axis=-1, keepdims=True)
    units: Floats = about / np.maximum(length, 1e-12)
    return units

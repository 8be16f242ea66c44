"""Filling the feature store: images through the encoder, in batches, decoded while the encoder computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from mllm_eval.adapters import load_encoder_model
from mllm_eval.adapters.base import EncoderModel, FeatureMap
from mllm_eval.data.samples import ImageRef
from mllm_eval.environment import device
from mllm_eval.errors import UserError
from mllm_eval.features.store import FeatureStore

if TYPE_CHECKING:
    from mllm_eval.run import Run

Progress = Callable[[int, int], None]
OnBroken = Callable[[ImageRef, Exception], None]

BATCH = 32
# A shard is written when this much is ready: what a crash can lose, and what a write holds in memory.
SHARD_BYTES = 32 * 2**20
# What a broken image raises on its way to pixels; anything else is a fault of the code.
BROKEN = (UserError, OSError, ValueError)


def extract(
    model: EncoderModel,
    images: Sequence[ImageRef],
    store: FeatureStore,
    progress: Progress | None = None,
    on_broken: OnBroken | None = None,
    batch: int = BATCH,
) -> int:
    """Put the features of those images into the store that it lacks, and return how many those were.

    Every batch has the same shape (the last one is filled up), so an image's features do not depend on which
    others were missing: interrupted and continued, the store holds the same bits.
    `on_broken` is told of an image that cannot be read, which is then left out; without it the error is
    raised, after what was computed before it is stored. `progress` gets the images done and to do.
    """
    by_name = {image.sha256: image for image in images}
    todo = [by_name[name] for name in store.missing(by_name)]
    batches = [todo[start : start + batch] for start in range(0, len(todo), batch)]
    weight = next(model.parameters())
    ready = _Shard(store)
    done = 0
    with ThreadPoolExecutor(max_workers=1) as decoder:
        coming = decoder.submit(_decode, model, batches[0]) if batches else None
        try:
            for number, refs in enumerate(batches):
                assert coming is not None
                pixels, broken = coming.result()
                if number + 1 < len(batches):
                    coming = decoder.submit(_decode, model, batches[number + 1])
                for ref, problem in broken:
                    if on_broken is None:
                        raise problem
                    on_broken(ref, problem)
                left_out = {ref.sha256 for ref, _ in broken}
                names = [ref.sha256 for ref in refs if ref.sha256 not in left_out]
                if names:
                    filled = np.zeros((batch, *pixels[0].shape), np.float32)
                    filled[: len(pixels)] = pixels
                    (features,) = model(torch.from_numpy(filled).to(weight.device, weight.dtype))
                    ready.add(names, features)
                done += len(refs)
                if progress:
                    progress(done, len(todo))
        finally:
            ready.write()
    return len(todo)


Decoded = tuple[list["np.ndarray[tuple[int, ...], np.dtype[np.float32]]"], list[tuple[ImageRef, Exception]]]


def _decode(model: EncoderModel, refs: Sequence[ImageRef]) -> Decoded:
    pixels = []
    broken: list[tuple[ImageRef, Exception]] = []
    for ref in refs:
        try:
            pixels.append(model.preprocess(ref.load()))
        except BROKEN as problem:
            broken.append((ref, problem))
    return pixels, broken


class _Shard:
    """Features on their way to the store."""

    def __init__(self, store: FeatureStore) -> None:
        self.store = store
        self.names: list[str] = []
        self.parts: list[FeatureMap] = []

    def add(self, names: list[str], features: FeatureMap) -> None:
        count = len(names)
        self.names += names
        # Off the GPU at once: a shard may hold more than it has room for.
        self.parts.append(FeatureMap(features.patches[:count].cpu(), features.summary[:count].cpu()))
        if len(self.names) * self.store.row_bytes >= SHARD_BYTES:
            self.write()

    def write(self) -> None:
        if self.names:
            patches = torch.cat([part.patches for part in self.parts])
            summaries = torch.cat([part.summary for part in self.parts])
            self.store.put_many(self.names, patches, summaries)
        self.names, self.parts = [], []


class Features:
    """Features of images by their refs: from the store, and computed where the store lacks them.

    `load` makes the encoder when it is first needed: with a full store it never is.
    """

    def __init__(self, store: FeatureStore, load: Callable[[], EncoderModel]) -> None:
        self.store = store
        self._load = load
        self._model: EncoderModel | None = None

    @classmethod
    def of(cls, run: Run) -> Features:
        """The features that a run trains on and answers from, in its recipe's precision.

        The encoder computes on the GPU where there is one; the store and what is read of it stay in memory.
        """
        dtype = run.recipe.dtype
        store = FeatureStore.of(run.encoder, run.weights["encoder"], dtype)
        return cls(store, lambda: load_encoder_model(run.encoder, getattr(torch, dtype)).to(device()))

    @property
    def model(self) -> EncoderModel:
        """The encoder, loaded at first use."""
        if self._model is None:
            self._model = self._load()
        return self._model

    def fill(
        self,
        images: Sequence[ImageRef],
        progress: Progress | None = None,
        on_broken: OnBroken | None = None,
    ) -> int:
        """`extract` what is missing, and return how many images that were; loads nothing if none is."""
        if not self.store.missing(image.sha256 for image in images):
            return 0
        return extract(self.model, images, self.store, progress, on_broken)

    def __call__(self, images: Sequence[ImageRef]) -> list[Tensor]:
        """Patch features [h, w, D] of each image. Raises UserError for an image that cannot be read."""
        self.fill(images)
        return list(self.store.get_many([image.sha256 for image in images]))

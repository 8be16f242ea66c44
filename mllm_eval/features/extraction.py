"""Filling the feature store: images through the encoder in batches, decoded ahead of it and written behind it."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, overload

import numpy as np
import torch
from numpy.typing import NDArray

from mllm_eval.adapters.base import EncoderModel, FeatureMap
from mllm_eval.data.samples import ImageRef
from mllm_eval.decoding import decoders
from mllm_eval.errors import UserError
from mllm_eval.features.store import FeatureStore
from mllm_eval.progress import Progress

OnBroken = Callable[[ImageRef, Exception], None]

# On a CPU a larger batch only leaves the caches: 32 images take half as long again as four times eight.
BATCH = 32 if torch.cuda.is_available() else 8
# Rows are written when so much is ready: what a crash can lose, and some four times of it is held in memory.
WRITE_BYTES = 8 * 2**20
# Batches that are decoded while the encoder computes.
AHEAD = 2
# What a broken image raises on its way to pixels; anything else is a fault of the code.
BROKEN = (UserError, OSError, ValueError)


class Encoded(NamedTuple):
    """A batch: the features of those images that could be read, in their order, and the others with the reason."""

    names: list[str]
    features: FeatureMap | None
    broken: list[tuple[ImageRef, Exception]]
    asked: int


def encode(model: EncoderModel, images: Sequence[ImageRef], batch: int = BATCH) -> Iterator[Encoded]:
    """The features of images, batch by batch in their order.

    Every batch has the same shape (the last one is filled up), so an image's features do not depend on which
    others stand beside it or how many threads decode.
    """
    weight = next(model.parameters())
    todo = (images[start : start + batch] for start in range(0, len(images), batch))
    coming: deque[tuple[Sequence[ImageRef], list[Future[Decoded]]]] = deque()
    pool = ThreadPoolExecutor(decoders(), "decode")

    def prepare_next() -> None:
        if (refs := next(todo, None)) is not None:
            coming.append((refs, [pool.submit(_decode, model, ref) for ref in refs]))

    try:
        for _ in range(AHEAD):
            prepare_next()
        while coming:
            refs, futures = coming.popleft()
            decoded = [future.result() for future in futures]
            prepare_next()
            pixels = [found for found in decoded if not isinstance(found, Exception)]
            names = [ref.sha256 for ref, one in zip(refs, decoded, strict=True) if not isinstance(one, Exception)]
            broken = [(ref, one) for ref, one in zip(refs, decoded, strict=True) if isinstance(one, Exception)]
            features = None
            if names:
                filled = np.zeros((batch, *pixels[0].shape), np.float32)
                filled[: len(pixels)] = pixels
                (made,) = model(torch.from_numpy(filled).to(weight.device, weight.dtype))
                # Off the GPU at once: what is kept may be more than it has room for.
                features = FeatureMap(made.patches[: len(names)].cpu(), made.summary[: len(names)].cpu())
            yield Encoded(names, features, broken, len(refs))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


Decoded = NDArray[np.float32] | Exception


def _decode(model: EncoderModel, ref: ImageRef) -> Decoded:
    try:
        return model.preprocess(ref.load())
    except BROKEN as problem:
        return problem


def extract(
    model: EncoderModel,
    images: Sequence[ImageRef],
    store: FeatureStore,
    progress: Progress | None = None,
    on_broken: OnBroken | None = None,
    batch: int = BATCH,
) -> int:
    """Put the features of those images into the store that it lacks, and return how many those were.

    Interrupted and continued, the store holds the same bits. It ends early where the store has no more room.
    `on_broken` is told of an image that cannot be read, which is then left out; without it the error is
    raised, after what was computed before it is stored. `progress` gets the images done and to do.
    """
    todo = lacking(images, store)
    kept = _Kept(store)
    done = 0
    try:
        for made in encode(model, todo, batch):
            for ref, problem in made.broken:
                if on_broken is None:
                    raise problem
                on_broken(ref, problem)
            if made.features is not None:
                kept.add(made.names, made.features)
            done += made.asked
            if progress:
                progress(done, len(todo))
            if kept.full:
                break
    finally:
        kept.close()
    return done


def lacking(images: Sequence[ImageRef], store: FeatureStore) -> Chosen:
    """The images that the store lacks, each once, in their order; memory holds 8 bytes of each."""
    places, missing = array("Q"), iter(store.missing(image.sha256 for image in images))
    name = next(missing, None)
    for place, image in enumerate(images):
        # They come in the order of the images.
        if image.sha256 == name:
            places.append(place)
            name = next(missing, None)
    return Chosen(images, places)


class Chosen(Sequence[ImageRef]):
    """Those at some places of a sequence."""

    def __init__(self, images: Sequence[ImageRef], places: Sequence[int]) -> None:
        self._images, self._places = images, places

    def first(self, count: int) -> Chosen:
        """The first so many of them."""
        return Chosen(self._images, self._places[:count])

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> ImageRef: ...
    @overload
    def __getitem__(self, index: slice) -> list[ImageRef]: ...
    def __getitem__(self, index: int | slice) -> ImageRef | list[ImageRef]:
        if isinstance(index, slice):
            return [self._images[place] for place in self._places[index]]
        return self._images[self._places[index]]


class _Kept:
    """Features on their way to the store, written by a thread while the encoder goes on."""

    def __init__(self, store: FeatureStore) -> None:
        self.store = store
        self.full = False
        self._names: list[str] = []
        self._parts: list[FeatureMap] = []
        self._writer = ThreadPoolExecutor(1, "write")
        self._writing: Future[bool] | None = None

    def add(self, names: list[str], features: FeatureMap) -> None:
        self._names += names
        self._parts.append(features)
        if len(self._names) * self.store.row_bytes >= WRITE_BYTES:
            self._write()

    def _write(self) -> None:
        self._wait()
        if self._names and not self.full:
            self._writing = self._writer.submit(self._put, self._names, self._parts)
        self._names, self._parts = [], []

    def _put(self, names: list[str], parts: list[FeatureMap]) -> bool:
        patches = torch.cat([part.patches for part in parts])
        summaries = torch.cat([part.summary for part in parts])
        return self.store.put_many(names, patches, summaries)

    def _wait(self) -> None:
        if self._writing is not None:
            writing, self._writing = self._writing, None
            self.full = not writing.result()

    def close(self) -> None:
        """Write the rest; what a write has raised is raised here at the latest."""
        try:
            self._write()
            self._wait()
        finally:
            self._writer.shutdown()

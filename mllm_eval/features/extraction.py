"""Filling the feature store: images through the encoder in batches, decoded ahead of it and written behind it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mllm_eval.adapters.base import EncoderModel
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
    """A batch: the rows (`FeatureStore.as_rows`) of those images that could be read, the others with the reason."""

    names: list[str]
    rows: Tensor | None
    broken: list[tuple[ImageRef, Exception]]


def encode(
    model: EncoderModel, images: Sequence[ImageRef], store: FeatureStore, batch: int = BATCH
) -> Iterator[Encoded]:
    """The features of images as `store` would keep them, batch by batch in their order.

    Every batch has the same shape (the last one is filled up), so an image's features do not depend on which
    others stand beside it or how many threads decode. Raises UserError for features that are not finite.
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
            decoded = [(ref, future.result()) for ref, future in zip(refs, futures, strict=True)]
            prepare_next()
            broken = [(ref, one) for ref, one in decoded if isinstance(one, Exception)]
            pixels = {ref.sha256: one for ref, one in decoded if not isinstance(one, Exception)}
            rows = None
            if pixels:
                filled = np.zeros((batch, *next(iter(pixels.values())).shape), np.float32)
                filled[: len(pixels)] = list(pixels.values())
                (made,) = model(torch.from_numpy(filled).to(weight.device, weight.dtype))
                # Looked at on the GPU and off it at once: what is kept may be more than it has room for.
                rows = store.as_rows(made.patches[: len(pixels)], made.summary[: len(pixels)])
            yield Encoded(list(pixels), rows, broken)
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
    names: list[str] = []
    parts: list[Tensor] = []
    writing: Future[bool] | None = None
    done = 0
    with ThreadPoolExecutor(1, "write") as writer:

        def room() -> bool:
            """Whether all that was to be written has been; what that has raised is raised here."""
            return writing is None or writing.result()

        try:
            for made in encode(model, todo, store, batch):
                for ref, problem in made.broken:
                    if on_broken is None:
                        raise problem
                    on_broken(ref, problem)
                if made.rows is not None:
                    names += made.names
                    parts.append(made.rows)
                done += len(made.names) + len(made.broken)
                if progress:
                    progress(done, len(todo))
                if len(names) * store.row_bytes >= WRITE_BYTES:
                    if not room():
                        return done
                    writing = writer.submit(store.put_rows, names, _joined(parts))
                    names, parts = [], []
        finally:
            if room() and names:
                store.put_rows(names, _joined(parts))
    return done


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def lacking(images: Iterable[ImageRef], store: FeatureStore) -> list[ImageRef]:
    """The images that the store lacks, each once, in their order."""
    by_digest: dict[str, ImageRef] = {}
    for image in images:
        by_digest.setdefault(image.sha256, image)
    return [by_digest[name] for name in store.missing(by_digest)]

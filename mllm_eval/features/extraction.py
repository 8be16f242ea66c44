"""Fill the feature store: encode images in batches, while threads decode the next and write the previous ones."""

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

# On a CPU, 32 images at once take 1.5 times as long as four batches of eight, which fit into the CPU's caches.
BATCH = 32 if torch.cuda.is_available() else 8
# Bytes of rows per write. A crash loses at most this much; about four times as much is held in memory.
WRITE_BYTES = 8 * 2**20
# Batches that are decoded while the encoder computes.
AHEAD = 2
# Errors that a broken image raises while it is decoded. Any other error is a bug.
BROKEN = (UserError, OSError, ValueError)


class Encoded(NamedTuple):
    """An encoded batch: names (SHA-256) and rows (`FeatureStore.as_rows`) of readable images, and the broken ones."""

    names: list[str]
    rows: Tensor | None
    broken: list[tuple[ImageRef, Exception]]


def encode(
    model: EncoderModel, images: Sequence[ImageRef], store: FeatureStore, batch: int = BATCH
) -> Iterator[Encoded]:
    """Encode images in order and yield their features batch by batch, in the form in which `store` keeps them.

    Every batch is padded to the same shape, so that an image's features do not depend on the other images of its batch
    or on the number of decoding threads. Raises UserError for features that are not finite.
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
                # `as_rows` moves the rows off the GPU, which may not have room for all that are kept.
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
    """Encode the images that the store lacks, and return how many were processed, broken ones included.

    The stored bits do not depend on interruptions. The function returns early if the store has no more room.
    `on_broken` is called for each image that cannot be read, and the image is skipped. Without it, the image's error
    is raised once all earlier features are stored. `progress` receives the numbers of processed and of missing images.
    """
    todo = lacking(images, store)
    names: list[str] = []
    parts: list[Tensor] = []
    writing: Future[bool] | None = None
    done = 0
    with ThreadPoolExecutor(1, "write") as writer:

        def room() -> bool:
            """Whether the previous write had room; its errors are raised here."""
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
    """Return the images that the store lacks, each once, in their order."""
    by_digest: dict[str, ImageRef] = {}
    for image in images:
        by_digest.setdefault(image.sha256, image)
    return [by_digest[name] for name in store.missing(by_digest)]

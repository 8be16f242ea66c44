"""Encode the images of a stage into the feature store, in chunks whose names fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mllm_eval.data.samples import ImageRef
from mllm_eval.distributed import together
from mllm_eval.features import Features, FeatureStore
from mllm_eval.features.together import encode_together
from mllm_eval.train.rowtokens import TokenisedSet
from mllm_eval.train.unreadable import Unreadable

# Images whose names are held in memory, about a kilobyte each.
CHUNK = 2**16
# Images on which the statistics for standardisation are measured.
MEASURED = 2048
# Images whose features are summed at a time.
SUMMED = 64


def chunks(images: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Yield `images` in parts of at most `CHUNK`."""
    for start in range(0, len(images), CHUNK):
        yield images[start : start + CHUNK]


def missing(store: FeatureStore, sets: Iterable[tuple[TokenisedSet, NDArray[np.int64]]]) -> int:
    """Return how many of the images, given as indices into each set's images, have no features in the store.

    An image that occurs several times counts once.
    """
    lacking = [
        # Eight bytes of an image's SHA-256 are enough to count distinct images.
        np.array([int(name[:16], 16) for name in store.missing(data.names(numbers))], np.uint64)
        for data, images in sets
        for numbers in chunks(images)
    ]
    return len(np.unique(np.concatenate(lacking))) if lacking else 0


def refs_of(sets: Iterable[tuple[TokenisedSet, NDArray[np.int64]]], names: Sequence[str]) -> list[ImageRef]:
    """Return the images with these names (SHA-256) as references for encoding, in the order of `names`."""
    refs: dict[str, ImageRef] = {}
    for data, _ in sets:
        refs |= {ref.sha256: ref for ref in data.refs(data.find(names))}
    return [refs[name] for name in names]


def encode(
    data: TokenisedSet,
    images: NDArray[np.int64],
    features: Features,
    unreadable: Unreadable,
    progress: Callable[[int], None],
) -> None:
    """Encode these images into the feature store; each process encodes its share.

    `progress` is called with the number of finished images. If the data allow broken rows, undecodable images are added
    to `unreadable`. Raises UserError for more of them than allowed.
    """
    done = 0
    for numbers in chunks(images):
        refs = {ref.sha256: ref for ref in data.refs(numbers)}
        broken: dict[str, str] = {}
        told = [0, 0]

        def tell(now: int, whole: int, before: int = done, told: list[int] = told) -> None:
            told[:] = now, whole
            progress(before + now)

        def on_broken(ref: ImageRef, problem: Exception, broken: dict[str, str] = broken) -> None:
            broken[ref.sha256] = str(problem)

        encode_together(features, refs, tell, on_broken if any(data.budgets) else None)
        done += told[1]

        def note(numbers: NDArray[np.int64] = numbers, broken: dict[str, str] = broken) -> None:
            if broken:
                # Several image numbers may share a name, as files may have the same content.
                named = zip(numbers.tolist(), data.names(numbers), strict=True)
                unreadable.add({number: broken[name] for number, name in named if name in broken})

        together(note, first_only=True)
    unreadable.refresh()


def spread(images: int) -> NDArray[np.int64]:
    """Return evenly spaced image numbers [at most MEASURED] for measuring statistics."""
    return np.unique(np.linspace(0, images - 1, MEASURED if images else 0).astype(np.int64))


def statistics(store: FeatureStore, images: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation per dimension, float64 [D] each, over all patches of images (SHA-256)."""
    total = torch.zeros(store.width, dtype=torch.float64)
    squares = torch.zeros_like(total)
    count = 0
    for start in range(0, len(images), SUMMED):
        patches = store.get_many(images[start : start + SUMMED]).flatten(0, 2).double()
        total += patches.sum(0)
        squares += patches.square().sum(0)
        count += len(patches)
    mean = total / count
    return mean, (squares / count - mean.square()).clamp_min(0).sqrt()

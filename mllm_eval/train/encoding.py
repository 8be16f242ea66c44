"""The images of a stage on their way into the feature store, some thousands of names in memory at a time."""

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
# Images that standardisation is measured on.
MEASURED = 2048
# Images whose features are summed at a time.
SUMMED = 64


def chunks(images: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Numbers of images, some thousands at a time."""
    for start in range(0, len(images), CHUNK):
        yield images[start : start + CHUNK]


def missing(store: FeatureStore, sets: Iterable[tuple[TokenisedSet, NDArray[np.int64]]]) -> int:
    """How many of those images (numbers into the data's) the store lacks, each counted once."""
    lacking = [
        # Eight bytes of its SHA-256 stand for an image: enough to count by.
        np.array([int(name[:16], 16) for name in store.missing(data.names(numbers))], np.uint64)
        for data, images in sets
        for numbers in chunks(images)
    ]
    return len(np.unique(np.concatenate(lacking))) if lacking else 0


def refs_of(sets: Iterable[tuple[TokenisedSet, NDArray[np.int64]]], names: Sequence[str]) -> list[ImageRef]:
    """The images of those names (SHA-256), for extraction, in the names' order."""
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
    """Fill the store with the features of those images; every process encodes its share.

    `progress` gets the images done. Those that cannot be decoded are noted as `unreadable` where the data may have
    broken rows. Raises UserError for one too many.
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
                # Two files may have the same bytes.
                named = zip(numbers.tolist(), data.names(numbers), strict=True)
                unreadable.add({number: broken[name] for number, name in named if name in broken})

        together(note, first_only=True)
    unreadable.refresh()


def spread(images: int) -> NDArray[np.int64]:
    """Evenly spaced numbers of images that the statistics are taken from."""
    return np.unique(np.linspace(0, images - 1, MEASURED if images else 0).astype(np.int64))


def statistics(store: FeatureStore, images: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation per dimension [D] over the patches of those images (sha256), in float64."""
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

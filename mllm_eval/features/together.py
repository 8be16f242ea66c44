"""Fill the feature store with several processes; each encodes its share of the missing images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mllm_eval.distributed import decided, gathered, rank, several, together, world_size
from mllm_eval.errors import UserError
from mllm_eval.progress import Progress

if TYPE_CHECKING:
    from mllm_eval.data.samples import ImageRef
    from mllm_eval.features import Features


def fill_together(
    features: Features,
    images: Sequence[ImageRef],
    progress: Progress,
    broken: Callable[[ImageRef, Exception], None],
) -> None:
    """Fill the feature store, by `Features.fill` in a single process, else by `encode_together`."""
    if not several():
        features.fill(images, progress, broken)
        return
    encode_together(features, {image.sha256: image for image in images}, progress, broken)


def encode_together(
    features: Features,
    images: Mapping[str, ImageRef],
    progress: Progress,
    on_broken: Callable[[ImageRef, Exception], None] | None = None,
) -> None:
    """Fill the feature store; every process encodes its share of the missing images (keyed by SHA-256).

    `on_broken` is called on rank 0 for every image that cannot be read. Without it such an image ends the work. Raises
    SharedError on all ranks where one rank met bad input.
    """
    names = list(images)

    def look() -> Any:
        missing = set(features.store.missing(names))
        return np.array([at for at, name in enumerate(names) if name in missing], np.int64)

    missing = decided(look)
    own, size = rank(), world_size()
    broken: list[tuple[str, str]] = []

    def note(image: ImageRef, problem: Exception) -> None:
        broken.append((image.sha256, str(problem)))

    def encode() -> None:
        share = [images[names[at]] for at in missing[own::size]]
        told = note if on_broken else None
        features.fill(share, lambda done, _: progress(min(done * size, len(missing)), len(missing)), told)

    together(encode)
    features.store.refresh()
    if on_broken and (everyones := gathered(broken)):
        for name, problem in (one for each in everyones for one in each):
            on_broken(images[name], UserError(problem))

"""Provide features of images from the store, or from the encoder where the store lacks them or has no room."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mllm_eval.adapters import load_encoder_model
from mllm_eval.adapters.base import EncoderModel
from mllm_eval.data.samples import ImageRef
from mllm_eval.environment import device
from mllm_eval.features.eviction import VARIABLE, available
from mllm_eval.features.extraction import BATCH, OnBroken, encode, extract, lacking
from mllm_eval.features.key import stored_dtype
from mllm_eval.features.store import FeatureStore
from mllm_eval.kernels import use_kernels
from mllm_eval.progress import Progress

if TYPE_CHECKING:
    from mllm_eval.run import Run

log = logging.getLogger(__name__)

# Bytes of features that are cached in memory if the store has no room for them.
HELD_BYTES = 256 * 2**20


class Features:
    """Returns features of images, from the store or, where the store lacks them, from the encoder.

    `load` returns the encoder. It is called only when features must be computed.
    """

    def __init__(self, store: FeatureStore, load: Callable[[], EncoderModel]) -> None:
        self.store = store
        self._load = load
        self._model: EncoderModel | None = None
        self._full = False
        self._told = False
        self._coming: dict[str, ImageRef] = {}
        self._held: OrderedDict[str, Tensor] = OrderedDict()

    @classmethod
    def of(cls, run: Run) -> Features:
        """Return the features for a run's training and evaluation, in its recipe's precision.

        The encoder computes on the GPU if there is one; features are returned in main memory.
        """
        computed, kernels = run.recipe.dtype, run.recipe.kernels
        store = FeatureStore.of(
            run.encoder, run.weights["encoder"], stored_dtype(run.recipe), computed=computed, kernels=kernels
        )

        def load() -> EncoderModel:
            model = use_kernels(load_encoder_model(run.encoder, getattr(torch, computed)), kernels)
            return model.to(device())

        return cls(store, load)

    @property
    def model(self) -> EncoderModel:
        """The encoder, loaded at first use."""
        if self._model is None:
            self._model = self._load()
        return self._model

    def release(self) -> None:
        """Free the encoder; `model` loads it again when needed."""
        self._model = None

    def fill(
        self,
        images: Sequence[ImageRef],
        progress: Progress | None = None,
        on_broken: OnBroken | None = None,
    ) -> int:
        """Encode the missing images into the store and return their number; load no encoder if none is missing.

        Images for which the store has no room are encoded on demand, and a warning tells the cost once. They are
        expected in the order of `images` (see `expect`). `progress` and `on_broken` as in `extract`.
        """
        todo = lacking(images, self.store)
        self._full, self._coming = False, {}
        if not todo:
            return 0
        room = available(self.store.root) // self.store.image_bytes
        done = 0
        if room:
            done = extract(self.model, todo[:room], self.store, progress, on_broken)
        if room < len(todo) or done < len(todo):
            self._full = True
            self._coming = {image.sha256: image for image in lacking(todo, self.store)}
            self._tell(len(self._coming), len({image.sha256 for image in images}))
        return done

    def _tell(self, left: int, images: int) -> None:
        if left and not self._told:
            self._told = True
            log.warning(
                "features: %d of %d images have no room, another %.1f GB would be needed (%s): they are encoded "
                "again each time they are asked about",
                left,
                images,
                left * self.store.row_bytes / 1e9,
                VARIABLE,
            )

    def expect(self, images: Sequence[ImageRef]) -> None:
        """Announce the order of later requests, so that images that are not in the store are encoded in batches."""
        if self._full:
            order = dict.fromkeys(image.sha256 for image in images)
            self._coming = {name: self._coming[name] for name in order if name in self._coming}

    def mends(self, find: Callable[[Sequence[str]], Sequence[ImageRef]]) -> None:
        """Let the store compute missing or damaged rows itself; `find` maps SHA-256s to image references."""
        self.store.elsewhere = lambda names: self._live(find(names))

    def __call__(self, images: Sequence[ImageRef]) -> list[Tensor]:
        """Return patch features [h, w, D] of each image, as views of mapped files where they are stored.

        Raises UserError, OSError or ValueError for an image that cannot be read.
        """
        names = [image.sha256 for image in images]
        rows = self.store.views(names)
        if not self._full and any(row is None for row in rows):
            self.fill([image for image, row in zip(images, rows, strict=True) if row is None])
            rows = self.store.views(names)
        if absent := [at for at, row in enumerate(rows) if row is None]:
            for at, row in zip(absent, self._live([images[at] for at in absent]), strict=True):
                rows[at] = row
        return [row[:-1].view(*self.store.grid, self.store.width) for row in rows if row is not None]

    def _live(self, images: Sequence[ImageRef]) -> Tensor:
        """Return rows [n, h * w + 1, D] of images from the memory cache or the encoder, bit-equal to stored ones."""
        rows = {image.sha256: self._held[image.sha256] for image in images if image.sha256 in self._held}
        wanted = {image.sha256: image for image in images if image.sha256 not in rows}
        for name in wanted:
            self._coming.pop(name, None)
        # A batch has a fixed cost, so it is filled up with the images that are expected next.
        ahead = list(self._coming)[: -len(wanted) % BATCH]
        todo = [*wanted.values(), *(self._coming.pop(name) for name in ahead)]
        for made in encode(self.model, todo, self.store):
            for ref, problem in made.broken:
                if ref.sha256 in wanted:
                    raise problem
            for name, row in zip(made.names, () if made.rows is None else made.rows, strict=True):
                self._held[name] = row.clone()
                if name in wanted:
                    rows[name] = self._held[name]
        most = max(BATCH, HELD_BYTES // self.store.row_bytes)
        while len(self._held) > most:
            self._held.popitem(last=False)
        return torch.stack([rows[image.sha256] for image in images])

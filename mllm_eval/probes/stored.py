"""Summaries of whole images, encoded once and kept in the feature store; kNN and logistic regression read them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mllm_eval.adapters.base import EncoderModel, FeatureMap
from mllm_eval.distributed import all_gathered, place_in_group
from mllm_eval.features import FeatureStore
from mllm_eval.features.eviction import features_root
from mllm_eval.features.extraction import extract
from mllm_eval.features.key import folder_name, key_of
from mllm_eval.probes.examples import Examples, Refs
from mllm_eval.progress import Progress

ROWS = 4096


class Summarised:
    """Wraps an encoder so that its features are the summaries of several layers, stored as one row."""

    def __init__(self, model: EncoderModel, layers: Sequence[int]) -> None:
        self.model, self.layers = model, tuple(layers)

    def parameters(self) -> Any:
        """The encoder's parameters."""
        return self.model.parameters()

    def preprocess(self, image: Any) -> Any:
        """Preprocesses as the encoder does."""
        return self.model.preprocess(image)

    def __call__(self, pixels: Tensor) -> list[FeatureMap]:
        """A feature map with the last layer's summary; the other layers' take the place of patches [B, L - 1, 1, D]."""
        every = torch.stack([one.summary for one in self.model(pixels, self.layers)], 1)
        return [FeatureMap(every[:, :-1, None], every[:, -1])]


class Summaries:
    """The summaries float32 [L, D] of all readable examples, in their order, read in chunks.

    `places`: indices of the readable examples; `broken`: id -> why the example can't be read.
    """

    def __init__(
        self, model: EncoderModel, digest: str, dtype: str, layers: Sequence[int], examples: Examples,
        progress: Progress,
    ) -> None:  # fmt: skip
        facts = model.facts
        key = {**key_of(facts, digest, "float32", dtype), "feature_layer": list(layers), "kept": "summaries"}
        self.store = FeatureStore(
            features_root() / folder_name(key), (len(layers) - 1, 1), facts.width, "float32",
            {"encoder": facts.name, **key},
        )  # fmt: skip
        self.refs = Refs(examples)
        self.layers = tuple(layers)
        self.broken = {examples[at].id: why for at, why in self.refs.broken.items()}
        lost = set(self.refs.broken)
        whole = np.array([at for at in range(len(examples)) if at not in lost], np.int64)
        reader: Any = Summarised(model, layers)
        own_reasons: dict[str, str] = {}

        def note(image: Any, problem: Exception) -> None:
            own_reasons[image.sha256] = str(problem)

        own, world = place_in_group()
        extract(reader, _Some(self.refs, whole[own::world]), self.store, progress, note)
        # The processes exchange the reasons after they have written their features, which `refresh` then finds.
        reasons = {name: why for each in all_gathered(own_reasons) for name, why in each.items()}
        if world > 1:
            self.store.refresh()
        missing = set(self.store.missing(self.refs.key(at) for at in whole))
        for at in whole:
            if (name := self.refs.key(at)) in missing:
                self.broken[examples[at].id] = reasons.get(name, "the image can't be read")
        self.places = np.array([at for at in whole if self.refs.key(at) not in missing], np.int64)

    def __len__(self) -> int:
        return len(self.places)

    def rows(self, start: int, stop: int) -> Tensor:
        """The summaries float32 [n, L, D] of the readable examples from `start` to `stop` - 1."""
        rows, _ = self.store.rows([self.refs.key(at) for at in self.places[start:stop]])
        return rows


class _Some(Sequence[Any]):
    """The references at some indices, made on access."""

    def __init__(self, refs: Refs, places: NDArray[np.int64]) -> None:
        self._refs, self._places = refs, places

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self._refs[int(at)] for at in self._places[index]]
        return self._refs[int(self._places[index])]

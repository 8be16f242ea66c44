"""Summaries of whole images, encoded once and kept in the feature store: what kNN and logistic regression read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mllm_eval.adapters.base import EncoderModel, FeatureMap
from mllm_eval.features import FeatureStore
from mllm_eval.features.eviction import features_root
from mllm_eval.features.extraction import extract
from mllm_eval.features.key import folder_name, key_of
from mllm_eval.probes.examples import Examples, Refs
from mllm_eval.probes.ranks import rank

ROWS = 4096


class Summarised:
    """An encoder whose features are the summaries of several layers, as one row of the store."""

    def __init__(self, model: EncoderModel, layers: Sequence[int]) -> None:
        self.model, self.layers = model, tuple(layers)

    def parameters(self) -> Any:
        """Those of the encoder."""
        return self.model.parameters()

    def preprocess(self, image: Any) -> Any:
        """As the encoder does."""
        return self.model.preprocess(image)

    def __call__(self, pixels: Tensor) -> list[FeatureMap]:
        """The last layer's summary, and those of the others in the place of patches [B, L - 1, 1, D]."""
        every = torch.stack([one.summary for one in self.model(pixels, self.layers)], 1)
        return [FeatureMap(every[:, :-1, None], every[:, -1])]


class Summaries:
    """Summaries [L, D] of every readable example, in the order of the examples, read in chunks."""

    def __init__(
        self, model: EncoderModel, digest: str, dtype: str, layers: Sequence[int], examples: Examples,
        progress: Callable[[int, int], None],
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
        told: dict[str, str] = {}

        def note(image: Any, problem: Exception) -> None:
            told[image.sha256] = str(problem)

        own, world = rank()
        extract(reader, _Some(self.refs, whole[own::world]), self.store, progress, note)
        if world > 1:
            torch.distributed.barrier()
            self.store.refresh()
        missing = set(self.store.missing(self.refs.key(at) for at in whole))
        for at in whole:
            if (name := self.refs.key(at)) in missing:
                self.broken[examples[at].id] = told.get(name, "the image can't be read")
        self.places = np.array([at for at in whole if self.refs.key(at) not in missing], np.int64)

    def __len__(self) -> int:
        return len(self.places)

    def rows(self, start: int, stop: int) -> Tensor:
        """[n, L, D] float32 of these of the readable examples."""
        rows, _ = self.store.rows([self.refs.key(at) for at in self.places[start:stop]])
        return rows


class _Some(Sequence[Any]):
    """References at some places, made when they are asked for."""

    def __init__(self, refs: Refs, places: NDArray[np.int64]) -> None:
        self._refs, self._places = refs, places

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self._refs[int(at)] for at in self._places[index]]
        return self._refs[int(self._places[index])]

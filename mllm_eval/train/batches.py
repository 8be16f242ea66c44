"""Turn the rows of a training step into tensors."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset, Sampler

from mllm_eval.adapters.preprocessing import to_pixels
from mllm_eval.catalog import Preprocessing, TokenGrid
from mllm_eval.decoding import load_image
from mllm_eval.errors import UserError
from mllm_eval.features import FeatureStore
from mllm_eval.model import IGNORED
from mllm_eval.train.order import BatchPlan
from mllm_eval.train.rowtokens import TokenisedSet


class PlanSampler(Sampler[int]):
    """Yields the row numbers of all steps in order; consecutive micro-batches make a step."""

    def __init__(self, plan: BatchPlan) -> None:
        self.plan = plan

    def __len__(self) -> int:
        return self.plan.steps * self.plan.batch

    def __iter__(self) -> Iterator[int]:
        for step in range(self.plan.steps):
            yield from self.plan.rows(step).tolist()


class RowNumbers(Dataset[int]):
    """A data set of row numbers; `Collator` reads the rows themselves, a batch at a time."""

    def __init__(self, rows: NDArray[np.int64]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> int:
        return int(self.rows[index])


@dataclass(frozen=True, slots=True)
class RowShape:
    """How a row's tokens become positions.

    image_token, pad_token: token ids. image_tokens: positions that an image takes. max_length: most positions of a row.
    grid: hides the padding of images, if given. dummy_positions: how much lower the limit is for rows without images.
    """

    image_token: int
    image_tokens: int
    pad_token: int
    max_length: int
    grid: TokenGrid | None = None
    dummy_positions: int = 0


class Collator:
    """Collates row numbers into a batch of tensors.

    The batch holds `input_ids` and `labels`, int64 [B, N], and the rows' images: `features` [images, h, w, D] from a
    store, or `pixel_values` float32 [images, 3, H, W] for an encoder that is part of the model. Rows are padded on the
    right. There is no attention mask: causal attention never sees the padding, and padding is never a target. A row
    without an image is cut `dummy_positions` earlier than `max_length`.

    With a `grid` that hides the padding of images, `kept` int64 [images, 2] gives the shown rows and columns of each.
    Hidden positions count for `max_length` and are then left out, which is equivalent to masking them.

    A row has no targets, and zeros for the image, if it shows a `broken` image (given by number) or an image that turns
    out to be undecodable. The batch lists the latter under `unreadable`, as (image number, reason).
    """

    def __init__(
        self,
        data: TokenisedSet,
        source: FeatureStore | Preprocessing,
        shape: RowShape,
        broken: Collection[int] = (),
    ) -> None:
        self.broken = frozenset(broken)
        self.data = data
        self.source = source
        self.image_token = shape.image_token
        self.image_tokens = shape.image_tokens
        self.pad_token = shape.pad_token
        grid = shape.grid
        self.grid = grid if grid is not None and grid.hide else None
        self.limits = data.limits(shape.max_length, shape.dummy_positions)

    def row(self, number: int) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """Return a row's token ids [N] and whether each is a target [N], images expanded, cut to the longest length."""
        span = slice(self.data.offsets[number], self.data.offsets[number + 1])
        ids, targets = self.data.ids[span], self.data.targets[span]
        times = np.where(ids == self.image_token, self.image_tokens, 1)
        limit = self.limits[number]
        spread = np.repeat(ids, times)[:limit], np.repeat(targets, times)[:limit]
        if self.grid is None or not (own := self.images(number)):
            return spread
        seen = spread[0] != self.image_token
        places = np.flatnonzero(~seen)
        whole = (places[at : at + self.image_tokens] for at in range(0, len(places), self.image_tokens))
        for at, kept in zip(whole, self.data.kept(self.grid, own).tolist(), strict=False):
            shown = np.array(self.grid.shown((kept[0], kept[1])), np.int64)
            seen[at[shown[shown < len(at)]]] = True
        return spread[0][seen], spread[1][seen]

    def images(self, number: int) -> list[int]:
        """Return a row's images in order, as indices into `data.images`."""
        numbers: list[int] = self.data.image_of[
            self.data.image_offsets[number] : self.data.image_offsets[number + 1]
        ].tolist()
        return numbers

    def _features(self, store: FeatureStore, images: Sequence[int]) -> torch.Tensor:
        whole = [image not in self.broken for image in images]
        names = [self.data.images[image][1] for image, one in zip(images, whole, strict=True) if one]
        rows = store.get_many(names)
        if all(whole):
            return rows
        features = rows.new_zeros(len(images), *rows.shape[1:])
        features[torch.tensor(whole)] = rows
        return features

    def _pixels(self, facts: Preprocessing, images: Sequence[int]) -> tuple[torch.Tensor, list[tuple[int, str]]]:
        unreadable = []
        pixels = np.zeros((len(images), 3, facts.size, facts.size), np.float32)
        for at, image in enumerate(images):
            try:
                pixels[at] = to_pixels(load_image(Path(self.data.images[image][0]), self.data.how), facts)
            except UserError as problem:
                unreadable.append((image, str(problem)))
        return torch.from_numpy(pixels), unreadable

    def __call__(self, numbers: Sequence[int]) -> dict[str, Any]:
        rows = [self.row(number) for number in numbers]
        width = max(len(ids) for ids, _ in rows)
        input_ids = np.full((len(rows), width), self.pad_token, np.int64)
        labels = np.full((len(rows), width), IGNORED, np.int64)
        for at, (ids, targets) in enumerate(rows):
            input_ids[at, : len(ids)] = ids
            labels[at, : len(ids)][targets] = ids[targets]
        images = [self.images(number) for number in numbers]
        flat = [image for row in images for image in row]
        seen: dict[str, Any]
        broken = self.broken
        if isinstance(self.source, Preprocessing):
            pixels, unreadable = self._pixels(self.source, flat)
            seen = {"pixel_values": pixels}
            if unreadable:
                seen["unreadable"] = unreadable
                broken = broken.union(image for image, _ in unreadable)
        else:
            seen = {"features": self._features(self.source, flat)}
        if self.grid is not None:
            seen["kept"] = torch.from_numpy(self.data.kept(self.grid, flat))
        if broken:
            labels[[not broken.isdisjoint(row) for row in images]] = IGNORED
        return {"input_ids": torch.from_numpy(input_ids), "labels": torch.from_numpy(labels), **seen}


@dataclass(frozen=True, slots=True)
class Batches:
    """The training data of a stage: the plan of its steps, the row numbers, and the collator."""

    plan: BatchPlan
    rows: RowNumbers
    collator: Collator

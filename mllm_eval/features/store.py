"""The feature store: features of images on disk, by the image's bytes, for one encoder as it is used.

A store is a folder under results/features, named by a digest of everything that decides a feature's bits. It holds
shards (`mllm_eval.features.shards`) of rows [h * w + 1, D]: the patches, then the summary. A row whose checksum is
wrong counts as missing and is computed again. What all stores take is bounded (`mllm_eval.features.room`).
"""

from __future__ import annotations

import logging
import os
import zlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mllm_eval.errors import UserError
from mllm_eval.features.index import Index
from mllm_eval.features.key import DTYPES, folder_name, key_of
from mllm_eval.features.leases import Lease
from mllm_eval.features.room import SHARD_BYTES, features_root, make_room, root_lock
from mllm_eval.features.shards import ENTRY, NotAShard, RowReader, ShardWriter, drop_entry, read_entries
from mllm_eval.storage import write_json

if TYPE_CHECKING:
    from mllm_eval.catalog import Encoder

log = logging.getLogger(__name__)


class FeatureStore:
    """Features of one encoder, preprocessing and layer.

    `folder` is made when something is put. `grid` is (h, w) of the encoder's own patches and `width` is D. Any
    number of processes may read and write; what others wrote is seen after `refresh`. Shards that this store has
    found an image in, or has written, are not evicted while it lives. `elsewhere`, where it is set, gives rows
    [n, h * w + 1, D] of images that the store lacks.
    """

    def __init__(
        self,
        folder: Path,
        grid: tuple[int, int],
        width: int,
        dtype: str = "float32",
        meta: dict[str, Any] | None = None,
    ):
        if dtype not in DTYPES:
            raise UserError(f"feature store: dtype {dtype!r} is unknown; use {', '.join(DTYPES)}")
        self.folder = folder
        self.grid = grid
        self.width = width
        self.dtype = dtype
        self.elsewhere: Callable[[Sequence[str]], Tensor] | None = None
        self._meta = meta
        self._kind: torch.dtype = getattr(torch, dtype)
        self._index = Index()
        self._shards: list[Path] = []
        self._read: dict[Path, tuple[int, int]] = {}
        """Index file -> its number, and how many of its entries were read."""
        self._left_out: set[Path] = set()
        self._held: set[int] = set()
        self._rows = RowReader(self.row_bytes)
        self._lease = Lease(folder.parent)
        self._writer: ShardWriter | None = None
        self.refresh()

    @classmethod
    def of(
        cls,
        encoder: Encoder,
        digest: str,
        dtype: str = "float32",
        root: Path | None = None,
        computed: str | None = None,
    ) -> FeatureStore:
        """The store of an encoder whose weights have this digest, under `root` (results/features).

        What decides a feature is in the key: weights, family, architecture, layer, norm, summary, preprocessing,
        precision (`computed` is the encoder's, where features are stored in another). The encoder's name is not.
        """
        key = key_of(encoder, digest, dtype, computed)
        folder = (root or features_root()) / folder_name(key)
        return cls(folder, (encoder.grid, encoder.grid), encoder.width, dtype, {"encoder": encoder.name, **key})

    @property
    def row_shape(self) -> tuple[int, int]:
        """Patches and the summary: (h * w + 1, D)."""
        return self.grid[0] * self.grid[1] + 1, self.width

    @property
    def row_bytes(self) -> int:
        """Bytes of one image on disk, beside 40 of the index."""
        return self.row_shape[0] * self.width * self._kind.itemsize

    @property
    def root(self) -> Path:
        """The folder of all stores, which one bound holds for."""
        return self.folder.parent

    def refresh(self) -> None:
        """Read what was written since, by this process or another."""
        self._forget([index for index in self._read if not index.is_file()])
        found = sorted(self.folder.glob("*.index"))
        self._index.add(part for index in found if (part := self._new_entries(index)) is not None)

    def _new_entries(self, index: Path) -> tuple[int, NDArray[np.int64], NDArray[np.void]] | None:
        number, after = self._read.get(index, (len(self._shards), 0))
        try:
            entries, good = read_entries(index, self.row_bytes, after)
        except (OSError, NotAShard) as problem:
            if index not in self._left_out:
                self._left_out.add(index)
                log.warning("%s: left out, its features are computed again (%s)", index, problem)
            return None
        if number == len(self._shards):
            self._shards.append(index)
        self._read[index] = (number, after + len(entries))
        rows = np.flatnonzero(good)
        return (number, after + rows, entries[rows]) if len(rows) else None

    def _forget(self, gone: Sequence[Path]) -> None:
        """Shards that another process has evicted or rewritten."""
        numbers = [self._read.pop(index)[0] for index in gone]
        if numbers:
            self._index.drop_shards(numbers)
            self._held.difference_update(numbers)

    def __len__(self) -> int:
        return len(self._index)

    def __contains__(self, image: str) -> bool:
        return bool(self._index.find([image])[0] >= 0)

    def missing(self, images: Iterable[str]) -> list[str]:
        """Those of the images (sha256) that the store lacks, each once, in their order.

        The others are not evicted from now on. Their rows are checked when they are read.
        """
        asked = list(dict.fromkeys(images))
        return [asked[at] for at in np.flatnonzero(self._hold(asked) < 0)]

    def _hold(self, images: Sequence[str]) -> NDArray[np.int64]:
        """The places [n] of images, -1 where there is none, in shards that nobody evicts any more."""
        while True:
            numbers = self._index.find(images)
            new = set(np.unique(self._index.shards(numbers[numbers >= 0])).tolist()) - self._held
            if not new:
                return numbers
            gone: list[Path] = []
            try:
                with root_lock(self.root):
                    shards = {number: self._shards[number] for number in new}
                    gone = [index for index in shards.values() if not index.is_file()]
                    self._lease.add(self._named(index) for index in shards.values() if index not in gone)
            except OSError:
                # A store that cannot be written cannot be leased, and nobody evicts from it.
                pass
            for index in shards.values():
                # The time of the last use, which eviction goes by.
                with suppress(OSError):
                    os.utime(index)
            self._held |= new
            if gone:
                self._forget(gone)
                self.refresh()

    def _named(self, index: Path) -> str:
        return f"{self.folder.name}/{index.stem}"

    def _load(self, number: int, into: NDArray[np.uint8]) -> bool:
        """Read the row of a place; False, and the place is gone, where it is not what was written."""
        shard, row, checksum, good = self._index.place(number)
        index = self._shards[shard]
        if self._rows.read(index, row, into.data):
            if good or zlib.crc32(into.data) == checksum:
                if not good:
                    self._index.mark_good(number)
                return True
            log.warning("%s: row %d is damaged, it is computed again", index.with_suffix(".rows"), row)
            with suppress(OSError):
                drop_entry(index, row)
        self._index.drop(np.array([number]))
        return False

    def rows(self, images: Sequence[str]) -> tuple[Tensor, list[int]]:
        """Rows [n, h * w + 1, D], and the numbers of those images that the store lacks or holds damaged."""
        # numpy's strides of no rows at all are not ones that torch can view as another type.
        made = torch.empty(len(images), self.row_bytes, dtype=torch.uint8)
        found: NDArray[np.uint8] = made.numpy()
        absent: list[int] = []
        left = np.arange(len(images))
        while len(left):
            places = self._hold([images[at] for at in left.tolist()])
            absent += left[places < 0].tolist()
            left, places = left[places >= 0], places[places >= 0]
            # Damaged ones come around: the image may have another place.
            by_place = self._index.order(places)
            left = np.array([left[at] for at in by_place if not self._load(int(places[at]), found[left[at]])], int)
        return made.view(self._kind).view(len(images), *self.row_shape), sorted(absent)

    def _all_rows(self, images: Sequence[str]) -> Tensor:
        rows, absent = self.rows(images)
        if absent:
            if self.elsewhere is None:
                lost = images[absent[0]]
                raise UserError(
                    f"{self.folder}: no features of image {lost}; run the same command again to compute them"
                )
            rows[absent] = self.elsewhere([images[at] for at in absent]).to("cpu", self._kind)
        return rows

    def get_many(self, images: Sequence[str]) -> Tensor:
        """Patch features [n, h, w, D] in the store's dtype. Raises UserError where an image has none."""
        return self._all_rows(images)[:, :-1].reshape(len(images), *self.grid, self.width)

    def summaries(self, images: Sequence[str]) -> Tensor:
        """Summary features [n, D] in the store's dtype. Raises UserError where an image has none."""
        return self._all_rows(images)[:, -1]

    def as_rows(self, patches: Tensor, summaries: Tensor) -> Tensor:
        """Rows [n, h * w + 1, D] in the store's dtype, in memory, of patches [n, h, w, D] and summaries [n, D].

        Raises UserError for features that are not finite, which the store's dtype may have made so.
        """
        rows = torch.cat([patches.flatten(1, 2), summaries[:, None]], 1).to("cpu", self._kind)
        if tuple(rows.shape[1:]) != self.row_shape:
            raise ValueError(f"features of shape {tuple(rows.shape)} do not fit rows of {self.row_shape}")
        if not torch.isfinite(rows).all():
            raise UserError(
                f"{self.folder}: features are not finite as {self.dtype}; check the encoder's weights, "
                "or use a wider dtype"
            )
        return rows.contiguous()

    def put_many(self, images: Sequence[str], patches: Tensor, summaries: Tensor) -> bool:
        """Append patches [n, h, w, D] and summaries [n, D] of n images (sha256); False where there is no room.

        Raises UserError for features that are not finite, which the store's dtype may have made so.
        """
        if not images:
            return True
        rows = self.as_rows(patches, summaries)
        if len(rows) != len(images):
            raise ValueError(f"{len(rows)} rows for {len(images)} images")
        return self.put_rows(images, rows)

    def put_rows(self, images: Sequence[str], rows: Tensor) -> bool:
        """Append rows as `as_rows` gives them; False where the bound leaves no room for them."""
        with root_lock(self.root):
            if not make_room(self.root, len(images) * (self.row_bytes + ENTRY.itemsize)):
                return False
            writer = self._open_writer()
            self._lease.add([self._named(writer.index)])
            writer.reserve(len(images))
        if self._meta is not None and not (self.folder / "meta.json").is_file():
            write_json(self.folder / "meta.json", self._meta)
        writer.append(images, rows.view(torch.uint8).view(len(images), -1).numpy())
        part = self._new_entries(writer.index)
        self._index.add([part] if part is not None else [])
        self._held.add(self._read[writer.index][0])
        return True

    def _open_writer(self) -> ShardWriter:
        # A forked process makes a shard of its own.
        if self._writer is not None and self._writer.process == os.getpid():
            if self._writer.size < SHARD_BYTES:
                return self._writer
            self._writer.close()
        self._writer = ShardWriter(self.folder, self.row_bytes)
        return self._writer

    def close(self) -> None:
        """Let go of files and leases; what was put stays."""
        self.elsewhere = None
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        self._rows.close()
        self._lease.close()
        self._held.clear()

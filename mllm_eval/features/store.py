"""The feature store: features of images on disk, by the image's bytes, for one encoder as it is used.

A store is a folder under results/features, named by a digest of everything that decides a feature's bits. It holds
shards (`mllm_eval.features.storeshards`) of rows [h * w + 1, D]: the patches, then the summary. What all stores take is
bounded (`mllm_eval.features.eviction`). Rows are read where they lie, in mapped files. The first time that a store
gives a row it compares it with its checksum; one that differs counts as missing and is computed again.
"""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mllm_eval.disk import NotWritten, saving
from mllm_eval.errors import UserError
from mllm_eval.features import storeshards
from mllm_eval.features.eviction import features_root, make_room, root_lock
from mllm_eval.features.key import DTYPES, folder_name, key_of
from mllm_eval.features.opened import OpenShards, let_go
from mllm_eval.features.places import Part, Places
from mllm_eval.features.reuse import ReusedMemory
from mllm_eval.storage import write_json

if TYPE_CHECKING:
    from mllm_eval.catalog import Encoder
    from mllm_eval.catalog.recipe import Kernels

log = logging.getLogger(__name__)

ROW = 2**32 - 1


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
    ) -> None:
        if dtype not in DTYPES:
            raise UserError(f"feature store: dtype {dtype!r} is unknown; use {', '.join(DTYPES)}")
        self.folder, self.grid, self.width, self.dtype = folder, grid, width, dtype
        self.elsewhere: Callable[[Sequence[str]], Tensor] | None = None
        self._meta = meta
        self._kind: torch.dtype = getattr(torch, dtype)
        self._form = storeshards.Form(dtype, grid[0] * grid[1] + 1, width)
        self._places = Places()
        self._shards: list[Path] = []
        self._read: dict[Path, tuple[int, int]] = {}
        """Shard -> its number, and how many of its lines were read."""
        self._left_out: set[Path] = set()
        self._open = OpenShards(self._form, self._kind)
        self._writers: list[storeshards.ShardWriter] = []
        """The one that is written to, if any."""
        self._memory = ReusedMemory()
        weakref.finalize(self, let_go, self._open, self._writers)
        self.refresh()
        if older := sum(path.stat().st_size for path in folder.glob("*.rows")):
            said = "%s: %.1f GB of an earlier version are not read, their features are computed again; "
            log.warning(said + "`mllm-eval features gc` removes them", folder, older / 1e9)

    @classmethod
    def of(
        cls,
        encoder: Encoder,
        digest: str,
        dtype: str = "float32",
        root: Path | None = None,
        computed: str | None = None,
        kernels: Kernels = "auto",
    ) -> FeatureStore:
        """The store of an encoder whose weights have this digest, under `root` (results/features).

        What decides a feature is in the key, the encoder's name is not: weights, family, architecture, layer, norm,
        summary, preprocessing, precision (`computed`: the encoder's, where another is stored), a recipe's `kernels`.
        """
        key = key_of(encoder, digest, dtype, computed, kernels)
        folder = (root or features_root()) / folder_name(key)
        return cls(folder, (encoder.grid, encoder.grid), encoder.width, dtype, {"encoder": encoder.name, **key})

    @property
    def row_bytes(self) -> int:
        """Bytes of the features of one image."""
        return self._form.row_bytes

    @property
    def image_bytes(self) -> int:
        """Bytes that one image takes on the disk, with its line of the index."""
        return self._form.row_bytes + storeshards.LINE.itemsize

    @property
    def root(self) -> Path:
        """The folder of all stores, which one bound holds for."""
        return self.folder.parent

    def refresh(self) -> None:
        """Read what was written since, by this process or another."""
        paths = sorted(self.folder.glob(f"*{storeshards.SUFFIX}"))
        self._forget(self._read.keys() - set(paths))
        self._places.add([part for path in paths if (part := self._new(path)) is not None])

    def _new(self, shard: Path) -> Part | None:
        number, after = self._read.get(shard, (len(self._shards), 0))
        try:
            lines, good = storeshards.read_lines(shard, self._form, after)
        except (OSError, storeshards.NotAShard) as problem:
            if shard not in self._left_out:
                self._left_out.add(shard)
                log.warning("%s: left out, its features are computed again (%s)", shard, problem)
            return None
        if number == len(self._shards):
            self._shards.append(shard)
        self._read[shard] = (number, after + len(lines))
        rows = np.flatnonzero(good)
        return lines["image"][rows], number << 32 | after + rows, lines["checksum"][rows]

    def _forget(self, gone: Iterable[Path]) -> None:
        """Shards that another process has removed."""
        if numbers := [self._read.pop(shard)[0] for shard in gone]:
            self._places.drop(shards=numbers)
            for number in numbers:
                self._open.forget(number)

    def __len__(self) -> int:
        return len(self._places)

    def missing(self, images: Iterable[str]) -> list[str]:
        """Those of the images (sha256) that the store lacks, each once, in their order.

        The others are not evicted from now on. Their rows are checked when they are read.
        """
        asked = list(dict.fromkeys(images))
        return [asked[at] for at in np.flatnonzero(self._hold(asked) < 0)]

    def _hold(self, images: Sequence[str]) -> NDArray[np.int64]:
        """The places [n] of images, -1 where there is none, in shards that nobody removes any more."""
        while True:
            where, _ = self._places.find(images)
            numbers = set(np.unique(where[where >= 0] >> 32).tolist()) - self._open.numbers
            gone = [self._shards[one] for one in sorted(numbers) if not self._open.hold(one, self._shards[one])]
            if not gone:
                return where
            self._forget(gone)
            self.refresh()

    def views(self, images: Sequence[str]) -> list[Tensor | None]:
        """Rows [h * w + 1, D] of images where they lie, in mapped files; None for those that are missing or damaged.

        Nothing is copied: a row's pages are read when the row is used. What is changed in one is not stored.
        """
        views: list[Tensor | None] = [None] * len(images)
        left = list(range(len(images)))
        while left:
            names = [images[at] for at in left]
            self._hold(names)
            where, checksums = self._places.find(names)
            new = checksums != b""
            for place in where[new].tolist():
                self._open.prefetch(place >> 32, place & ROW)
            bad = set()
            for at, place in sorted(enumerate(where.tolist()), key=itemgetter(1)):
                if place >= 0:
                    views[left[at]] = row = self._row(names[at], place, checksums[at])
                    bad.update([place] if row is None else [])
            if new.any():
                self._places.compared(names, where)
            # Damaged ones come around: the image may have another place.
            left = [at for at, place in zip(left, where.tolist(), strict=True) if place in bad]
            if bad:
                self._places.drop(bad)
        return views

    def _row(self, image: str, place: int, expected: bytes) -> Tensor | None:
        """The row at a place, None where it is not what was written; nothing is expected of one that was compared."""
        shard, row = self._shards[place >> 32], place & ROW
        try:
            stored = self._open.map(place >> 32, shard, row)[row]
        except (OSError, RuntimeError, IndexError):
            return None
        if expected and storeshards.checksum(image.encode(), stored.view(torch.uint8).numpy()) != expected:
            log.warning("%s: row %d is damaged, it is computed again", shard, row)
            with suppress(OSError):
                storeshards.drop_line(shard, row)
            return None
        return stored

    def rows(self, images: Sequence[str]) -> tuple[Tensor, list[int]]:
        """Rows [n, h * w + 1, D], and the numbers of those images that the store lacks or holds damaged."""
        rows, views = self._batch(len(images)), self.views(images)
        if whole := [row for row in views if row is not None]:
            if len(whole) == len(images):
                torch.stack(whole, out=rows)
            else:
                rows[[row is not None for row in views]] = torch.stack(whole)
        return rows, [at for at, row in enumerate(views) if row is None]

    def _batch(self, count: int) -> Tensor:
        # At least one: numpy's strides of no rows at all are not ones that torch can view as another type.
        rows = max(1, count)
        lent = self._memory.lend(rows * self.row_bytes)
        return torch.from_numpy(lent).view(self._kind).view(rows, *self._form[1:])[:count]

    def _all_rows(self, images: Sequence[str]) -> Tensor:
        rows, absent = self.rows(images)
        if absent:
            if self.elsewhere is None:
                said = f"no features of image {images[absent[0]]}; run the same command again to compute them"
                raise UserError(f"{self.folder}: {said}")
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

        They are made and looked at where the features are, on a GPU there. Raises UserError for features that are not
        finite, which the store's dtype may have made so.
        """
        rows = torch.cat([patches.flatten(1, 2), summaries[:, None]], 1).to(self._kind)
        if tuple(rows.shape[1:]) != self._form[1:]:
            raise ValueError(f"features of shape {tuple(rows.shape)} do not fit rows of {self._form[1:]}")
        # Not a number is both the least and the largest of numbers that it is among.
        if len(rows) and not torch.stack(torch.aminmax(rows)).isfinite().all():
            mend = "check the encoder's weights, or use a wider dtype"
            raise UserError(f"{self.folder}: features are not finite as {self.dtype}; {mend}")
        return rows.cpu()

    def put_many(self, images: Sequence[str], patches: Tensor, summaries: Tensor) -> bool:
        """Append patches [n, h, w, D] and summaries [n, D] of n images (sha256); False where there is no room.

        Raises UserError for features that are not finite, which the store's dtype may have made so.
        """
        return not images or self.put_rows(images, self.as_rows(patches, summaries))

    def put_rows(self, images: Sequence[str], rows: Tensor) -> bool:
        """Append rows as `as_rows` gives them; False where the bound leaves no room for them.

        Raises NotWritten where the system refuses; what was put before stays.
        """
        if len(rows) != len(images):
            raise ValueError(f"{len(rows)} rows for {len(images)} images")
        try:
            with saving(self.folder):
                return self._append(images, rows)
        except NotWritten:
            # What a shard holds behind its last whole row is cut off; more rows go to another one.
            let_go(None, self._writers)
            raise

    def _append(self, images: Sequence[str], rows: Tensor) -> bool:
        with root_lock(self.root):
            if not make_room(self.root, len(images) * self.image_bytes):
                return False
            if not self._writers or self._writers[0].full or self._writers[0].process != os.getpid():
                # A forked process makes a shard of its own.
                self._writers.append(storeshards.ShardWriter(self.folder, self._form))
                let_go(None, self._writers[:-1])
                del self._writers[:-1]
            (writer,) = self._writers
            writer.reserve(len(images))
        if self._meta and not (self.folder / "meta.json").is_file():
            write_json(self.folder / "meta.json", self._meta)
        writer.append(images, rows.view(torch.uint8).view(len(images), -1).numpy())
        part = self._new(writer.shard)
        self._places.add([part] if part is not None else [])
        self._hold(images)
        return True

    def close(self) -> None:
        """Let go of files and shards; what was put stays."""
        self.elsewhere = None
        let_go(self._open, self._writers)

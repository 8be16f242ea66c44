"""The feature store: an encoder's features of images on disk, keyed by the image's SHA-256.

A store is a folder under results/features, named by a digest of everything that decides a feature's bits. It holds
shards (`mllm_eval.features.storeshards`) of rows [h * w + 1, D]: patch features, then the summary feature. The total
size of all stores is bounded (`mllm_eval.features.eviction`). Rows are read from memory-mapped files. A row is compared
with its checksum when it is first read; a damaged row counts as missing and is computed again.
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
from mllm_eval.features.places import PlaceArrays, RowPlaces
from mllm_eval.features.reuse import ReusedMemory
from mllm_eval.storage import write_json

if TYPE_CHECKING:
    from mllm_eval.catalog import Encoder
    from mllm_eval.catalog.recipe import Kernels

log = logging.getLogger(__name__)

ROW = 2**32 - 1


class FeatureStore:
    """Features of one encoder, with one preprocessing and layer.

    `folder` is created by the first write. `grid` is (h, w) of the encoder's own patches and `width` is D. Several
    processes may read and write; `refresh` shows what others wrote. Shards that this store has written, or has found an
    image in, are not evicted while it lives. `elsewhere`, if set, returns rows [n, h * w + 1, D] of missing images.
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
        self._form = storeshards.RowForm(dtype, grid[0] * grid[1] + 1, width)
        self._places = RowPlaces()
        self._shards: list[Path] = []
        self._read: dict[Path, tuple[int, int]] = {}
        """Shard -> its number, and how many lines of its index were read."""
        self._left_out: set[Path] = set()
        self._open = OpenShards(self._form, self._kind)
        self._writers: list[storeshards.ShardWriter] = []
        """At most one: the shard that is written to."""
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
        """Return the store of an encoder whose weights have this digest, under `root` (by default results/features).

        Its key is all that decides a feature: weights, family, architecture, layer, norm, summary, preprocessing,
        precision (`computed`: dtype of the encoder, if not `dtype`) and `kernels`, but not the encoder's name.
        """
        key = key_of(encoder, digest, dtype, computed, kernels)
        folder = (root or features_root()) / folder_name(key)
        return cls(folder, (encoder.grid, encoder.grid), encoder.width, dtype, {"encoder": encoder.name, **key})

    @property
    def row_bytes(self) -> int:
        """Bytes of one image's features."""
        return self._form.row_bytes

    @property
    def image_bytes(self) -> int:
        """Bytes that one image takes on disk, with its line of the index."""
        return self._form.row_bytes + storeshards.LINE.itemsize

    @property
    def root(self) -> Path:
        """The folder of all stores, whose total size is bounded."""
        return self.folder.parent

    def refresh(self) -> None:
        """Read index lines that this or another process has written since the last read."""
        paths = sorted(self.folder.glob(f"*{storeshards.SUFFIX}"))
        self._forget(self._read.keys() - set(paths))
        self._places.add([part for path in paths if (part := self._new(path)) is not None])

    def _new(self, shard: Path) -> PlaceArrays | None:
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
        """Forget shards that another process has removed."""
        if numbers := [self._read.pop(shard)[0] for shard in gone]:
            self._places.drop(shards=numbers)
            for number in numbers:
                self._open.forget(number)

    def __len__(self) -> int:
        return len(self._places)

    def missing(self, images: Iterable[str]) -> list[str]:
        """Return the images (SHA-256) that the store lacks, each once, in their order.

        The other images are not evicted from now on. Their rows are verified only when they are read.
        """
        asked = list(dict.fromkeys(images))
        return [asked[at] for at in np.flatnonzero(self._hold(asked) < 0)]

    def _hold(self, images: Sequence[str]) -> NDArray[np.int64]:
        """Return the places [n] of images, -1 where there is none, after locking their shards against removal."""
        while True:
            where, _ = self._places.find(images)
            numbers = set(np.unique(where[where >= 0] >> 32).tolist()) - self._open.numbers
            gone = [self._shards[one] for one in sorted(numbers) if not self._open.hold(one, self._shards[one])]
            if not gone:
                return where
            self._forget(gone)
            self.refresh()

    def views(self, images: Sequence[str]) -> list[Tensor | None]:
        """Return rows [h * w + 1, D] of images as views of mapped files; None for missing or damaged ones.

        Pages are read from disk when a row is used. Changes to a row are not stored.
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
            # Damaged images are looked up again, as another shard may hold them, too.
            left = [at for at, place in zip(left, where.tolist(), strict=True) if place in bad]
            if bad:
                self._places.drop(bad)
        return views

    def _row(self, image: str, place: int, expected: bytes) -> Tensor | None:
        """Return the row at a place; None if it is damaged. `expected` is its checksum, empty if already verified."""
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
        """Return rows [n, h * w + 1, D], and the indices of missing or damaged images, whose rows are undefined."""
        rows, views = self._batch(len(images)), self.views(images)
        if whole := [row for row in views if row is not None]:
            if len(whole) == len(images):
                torch.stack(whole, out=rows)
            else:
                rows[[row is not None for row in views]] = torch.stack(whole)
        return rows, [at for at, row in enumerate(views) if row is None]

    def _batch(self, count: int) -> Tensor:
        # At least one row: torch cannot reinterpret the dtype of an empty numpy array.
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
        """Return patch features [n, h, w, D] in the store's dtype. Raises UserError where an image has none."""
        return self._all_rows(images)[:, :-1].reshape(len(images), *self.grid, self.width)

    def summaries(self, images: Sequence[str]) -> Tensor:
        """Return summary features [n, D] in the store's dtype. Raises UserError where an image has none."""
        return self._all_rows(images)[:, -1]

    def as_rows(self, patches: Tensor, summaries: Tensor) -> Tensor:
        """Pack patches [n, h, w, D] and summaries [n, D] into rows [n, h * w + 1, D] in the store's dtype, on the CPU.

        The work is done on the features' own device. Raises UserError for values that are not finite, for instance
        because they overflow the store's dtype, and ValueError for another shape.
        """
        rows = torch.cat([patches.flatten(1, 2), summaries[:, None]], 1).to(self._kind)
        if tuple(rows.shape[1:]) != self._form[1:]:
            raise ValueError(f"features of shape {tuple(rows.shape)} do not fit rows of {self._form[1:]}")
        # aminmax returns NaN for both values if any element is NaN.
        if len(rows) and not torch.stack(torch.aminmax(rows)).isfinite().all():
            mend = "check the encoder's weights, or use a wider dtype"
            raise UserError(f"{self.folder}: features are not finite as {self.dtype}; {mend}")
        return rows.cpu()

    def put_many(self, images: Sequence[str], patches: Tensor, summaries: Tensor) -> bool:
        """Append patches [n, h, w, D] and summaries [n, D] of n images (SHA-256); return False if there is no room.

        Raises as `as_rows` and `put_rows`.
        """
        return not images or self.put_rows(images, self.as_rows(patches, summaries))

    def put_rows(self, images: Sequence[str], rows: Tensor) -> bool:
        """Append rows made by `as_rows`; return False if the bound on all stores leaves no room.

        Raises NotWritten where the system can't write; earlier rows are kept.
        """
        if len(rows) != len(images):
            raise ValueError(f"{len(rows)} rows for {len(images)} images")
        try:
            with saving(self.folder):
                return self._append(images, rows)
        except NotWritten:
            # Closing cuts off everything after the shard's last complete row. Later rows go to a new shard.
            let_go(None, self._writers)
            raise

    def _append(self, images: Sequence[str], rows: Tensor) -> bool:
        with root_lock(self.root):
            if not make_room(self.root, len(images) * self.image_bytes):
                return False
            if not self._writers or self._writers[0].full or self._writers[0].process != os.getpid():
                # A forked process must not write to its parent's shard.
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
        """Close all files and release the shards; stored features are kept."""
        self.elsewhere = None
        let_go(self._open, self._writers)

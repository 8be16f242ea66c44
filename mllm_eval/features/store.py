"""The feature store: features of images on disk, by the image's bytes, for one encoder as it is used.

A store is a folder whose name is a digest of everything that decides a feature's bits. In it, append-only
shards: `<number>-<digest>.npy` holds rows [n, h * w + 1, D] (the patches, then the summary), and the `.json`
beside it, written after it, their images and checksums. A shard without its index was cut off by a crash and
does not count; a row whose checksum is wrong counts as missing and is computed again.
"""

from __future__ import annotations

import io
import json
import logging
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mllm_eval.config import short_hash
from mllm_eval.errors import UserError
from mllm_eval.storage import results_home, sha256_bytes, write_atomic, write_json

if TYPE_CHECKING:
    from mllm_eval.catalog import Encoder

log = logging.getLogger(__name__)

# numpy has no bfloat16: its bits are kept as 16-bit integers.
STORED: dict[str, tuple[torch.dtype, type[np.generic]]] = {
    "float32": (torch.float32, np.float32),
    "float16": (torch.float16, np.float16),
    "bfloat16": (torch.bfloat16, np.uint16),
}


class _Place(NamedTuple):
    shard: int
    row: int
    checksum: int


class FeatureStore:
    """Features of one encoder, preprocessing and layer.

    `folder` is made when something is put. `grid` is (h, w) of the encoder's own patches and `width` is D.
    One process may write while others read: readers see a shard once it is whole (`refresh`).
    """

    def __init__(self, folder: Path, grid: tuple[int, int], width: int, dtype: str = "float32"):
        if dtype not in STORED:
            raise UserError(f"feature store: dtype {dtype!r} is unknown; use {', '.join(STORED)}")
        self.folder = folder
        self.grid = grid
        self.width = width
        self.dtype = dtype
        self._shards: list[NDArray[Any]] = []
        self._known: set[str] = set()
        self._places: dict[str, _Place] = {}
        self._verified: set[str] = set()
        self.refresh()

    @classmethod
    def of(cls, encoder: Encoder, digest: str, dtype: str = "float32", root: Path | None = None) -> FeatureStore:
        """The store of an encoder whose weights have this digest, under `root` (results/features).

        What decides a feature is in the key: weights, family, architecture, layer, norm, summary,
        preprocessing, precision.
        The encoder's name is not.
        """
        key = {
            "weights": digest,
            "dtype": dtype,
            **encoder.model_dump(
                mode="json",
                include={
                    *("family", "feature_layer", "norm", "summary", "preprocessing", "patch", "width"),
                    # Heads and activation are nowhere in the bytes of an original checkpoint.
                    "architecture",
                },
            ),
        }
        edge = encoder.preprocessing.size // encoder.patch
        folder = (root or results_home() / "features") / short_hash(key, 16)
        store = cls(folder, (edge, edge), encoder.width, dtype)
        if not (folder / "meta.json").is_file():
            write_json(folder / "meta.json", {"encoder": encoder.name, **key})
        return store

    @property
    def row_shape(self) -> tuple[int, int]:
        """Patches and the summary: (h * w + 1, D)."""
        return self.grid[0] * self.grid[1] + 1, self.width

    @property
    def row_bytes(self) -> int:
        """Bytes of one image on disk."""
        return self.row_shape[0] * self.width * np.dtype(STORED[self.dtype][1]).itemsize

    def refresh(self) -> None:
        """Read the indexes of shards that were written since; a later shard overrides an earlier one."""
        for index in sorted(self.folder.glob("*.json")):
            if index.name == "meta.json" or index.stem in self._known:
                continue
            self._known.add(index.stem)
            try:
                entry = json.loads(index.read_bytes())
                rows = np.load(index.with_suffix(".npy"), mmap_mode="r")
                if rows.shape != (len(entry["images"]), *self.row_shape):
                    raise ValueError(f"rows of shape {rows.shape[1:]}, not {self.row_shape}")
                if rows.dtype != np.dtype(STORED[self.dtype][1]):
                    raise ValueError(f"rows of type {rows.dtype}")
                found = list(zip(entry["images"], entry["checksums"], strict=True))
            except (OSError, ValueError, KeyError, TypeError, EOFError) as problem:
                log.warning("%s: left out, its features are computed again (%s)", index, problem)
                continue
            self._shards.append(rows)
            for row, (image, checksum) in enumerate(found):
                self._places[image] = _Place(len(self._shards) - 1, row, checksum)
                self._verified.discard(image)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, image: str) -> bool:
        return image in self._places

    def _row(self, image: str) -> NDArray[Any] | None:
        place = self._places.get(image)
        if place is None:
            return None
        row: NDArray[Any] = self._shards[place.shard][place.row]
        if image not in self._verified:
            if zlib.crc32(row.data) != place.checksum:
                log.warning("%s: the features of image %s are damaged, they are computed again", self.folder, image)
                del self._places[image]
                return None
            self._verified.add(image)
        return row

    def missing(self, images: Iterable[str]) -> list[str]:
        """Those of the images (sha256) that are absent or damaged, each once, in their order."""
        return [image for image in dict.fromkeys(images) if self._row(image) is None]

    def _rows(self, images: Sequence[str]) -> Tensor:
        kind, stored = STORED[self.dtype]
        rows = np.empty((len(images), *self.row_shape), stored)
        for at, image in enumerate(images):
            row = self._row(image)
            if row is None:
                raise UserError(
                    f"{self.folder}: no features of image {image}; run the same command again to compute them"
                )
            rows[at] = row
        return torch.from_numpy(rows).view(kind)

    def get_many(self, images: Sequence[str]) -> Tensor:
        """Patch features [n, h, w, D] in the store's dtype. Raises UserError where an image has none."""
        return self._rows(images)[:, :-1].reshape(len(images), *self.grid, self.width)

    def summaries(self, images: Sequence[str]) -> Tensor:
        """Summary features [n, D] in the store's dtype. Raises UserError where an image has none."""
        return self._rows(images)[:, -1]

    def put_many(self, images: Sequence[str], patches: Tensor, summaries: Tensor) -> None:
        """Append one shard: patches [n, h, w, D] and summaries [n, D] of n images (sha256).

        Raises UserError for features that are not finite, which the store's dtype may have made so.
        """
        if not images:
            return
        kind, stored = STORED[self.dtype]
        rows = torch.cat([patches.flatten(1, 2), summaries[:, None]], 1).to("cpu", kind)
        if tuple(rows.shape) != (len(images), *self.row_shape):
            raise ValueError(f"features of shape {tuple(rows.shape)} do not fit rows of {self.row_shape}")
        if not torch.isfinite(rows).all():
            raise UserError(
                f"{self.folder}: features are not finite as {self.dtype}; check the encoder's weights, "
                "or use a wider dtype"
            )
        raw = rows.contiguous().view(torch.int16 if stored is np.uint16 else kind).numpy().view(stored)
        packed = io.BytesIO()
        np.save(packed, raw)
        digest = sha256_bytes("\n".join(images).encode())[:12]
        stem = f"{len(self._known):06d}-{digest}"
        write_atomic(self.folder / f"{stem}.npy", packed.getvalue())
        write_json(
            self.folder / f"{stem}.json",
            {"images": list(images), "checksums": [zlib.crc32(row.data) for row in raw]},
        )
        self.refresh()

"""What lies in the stores, and who it belongs to. Reads indexes and yaml files; no torch, no weights."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mllm_eval.catalog import Encoder, load_encoder, names
from mllm_eval.errors import UserError, near
from mllm_eval.features.key import DTYPES, FIELDS, folder_name, key_of
from mllm_eval.features.leases import held
from mllm_eval.features.room import ShardFile, root_lock, shard_files
from mllm_eval.features.shards import NotAShard, read_entries, read_row_bytes
from mllm_eval.saved import saved_runs


@dataclass(frozen=True)
class Store:
    """One store on disk.

    images: distinct ones. rows: what the shards hold, dropped and doubled ones too. size: bytes on disk. used: last
    reading or writing, seconds since 1970 (0 for an empty store). owners: encoders of the catalog and of saved
    runs whose features these are; None where its meta.json does not say what it holds. held: a living process
    reads or writes it.
    """

    name: str
    folder: Path
    meta: dict[str, Any]
    images: int
    rows: int
    row_bytes: int
    shards: int
    size: int
    used: float
    owners: tuple[str, ...] | None
    held: bool

    @property
    def orphaned(self) -> bool:
        """Whether no encoder that is known would ever read it."""
        return self.owners is not None and not self.owners

    def to_dict(self) -> dict[str, Any]:
        """Plain data for `--json`."""
        return {
            "store": self.name,
            "encoder": self.meta.get("encoder"),
            "owners": None if self.owners is None else list(self.owners),
            "preprocessing": self.meta.get("preprocessing"),
            "layer": self.meta.get("feature_layer"),
            "norm": self.meta.get("norm"),
            "dtype": self.meta.get("dtype"),
            "images": self.images,
            "rows": self.rows,
            "row_bytes": self.row_bytes,
            "shards": self.shards,
            "bytes": self.size,
            "last_used": self.used,
            "orphaned": self.orphaned,
            "held": self.held,
        }


def read_stores(root: Path) -> list[Store]:
    """All stores under a root, by encoder and name; folders without shards and without meta.json are none."""
    holding = leased(root)
    shards: dict[Path, list[ShardFile]] = {}
    for shard in shard_files(root):
        shards.setdefault(shard.index.parent, []).append(shard)
    folders = {path.parent for path in root.glob("*/meta.json")} | shards.keys()
    found = [_read(folder, shards.get(folder, []), holding) for folder in folders]
    return sorted(found, key=lambda store: (str(store.meta.get("encoder")), store.name))


def leased(root: Path) -> set[str]:
    """Shards that living processes hold, as `<store>/<shard>`."""
    if not root.is_dir():
        return set()
    with root_lock(root):
        return held(root)


def _read(folder: Path, shards: list[ShardFile], holding: set[str]) -> Store:
    parts: list[NDArray[np.uint8]] = []
    row_bytes = rows = 0
    for shard in shards:
        try:
            row_bytes = read_row_bytes(shard.index)
            entries, good = read_entries(shard.index, row_bytes)
        except (OSError, NotAShard):
            continue
        rows += len(entries)
        parts.append(entries["image"][good])
    images = len(np.unique(np.concatenate(parts), axis=0)) if parts else 0
    meta = read_meta(folder)
    return Store(
        name=folder.name,
        folder=folder,
        meta=meta,
        images=images,
        rows=rows,
        row_bytes=row_bytes,
        shards=len(shards),
        size=sum(path.stat().st_size for path in folder.iterdir() if path.is_file()),
        used=max((shard.used for shard in shards), default=0.0),
        owners=_owners(folder.name, meta) if meta else None,
        held=any(shard.name in holding for shard in shards),
    )


def read_meta(folder: Path) -> dict[str, Any]:
    """What meta.json says the store holds; empty where it is missing or broken."""
    try:
        found = json.loads((folder / "meta.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _owners(name: str, meta: dict[str, Any]) -> tuple[str, ...]:
    found = []
    for encoder, digest in _known():
        facts = encoder.model_dump(mode="json", include=set(FIELDS))
        # The weights are hashed only for an encoder that is used in the same way.
        if any(meta.get(field) != facts.get(field) for field in FIELDS):
            continue
        try:
            weights = digest or encoder.weights.digest()
        except UserError:
            # Its weights are not here: nobody can say that the features are not theirs.
            found.append(encoder.name)
            continue
        keys = (key_of(encoder, weights, kept, made) for kept in DTYPES for made in (None, *DTYPES))
        if any(folder_name(key) == name for key in keys):
            found.append(encoder.name)
    return tuple(dict.fromkeys(found))


@cache
def _known() -> list[tuple[Encoder, str | None]]:
    """Encoders of the catalog with their variants, and those of saved runs with the digest of their weights."""
    found: list[tuple[Encoder, str | None]] = []
    for name in names("encoders"):
        try:
            encoder = load_encoder(name)
        except UserError:
            continue
        found += [(encoder, None), *((encoder.variant(variant), None) for variant in encoder.variants)]
    return found + [(run.encoder, run.weights["encoder"]) for run in saved_runs()]


def chosen(stores: list[Store], asked: list[str]) -> Iterator[Store]:
    """The stores of these names: a store's, the beginning of one, or an encoder's; all where none is asked for.

    Raises UserError with the nearest name for one that none has.
    """
    for name in asked:
        if not any(_is(store, name) for store in stores):
            known = {store.name for store in stores} | {owner for store in stores for owner in _called(store)}
            raise UserError(f"no store of features {name!r}.{near(name, known)} `mllm-eval features ls` lists all.")
    return (store for store in stores if not asked or any(_is(store, name) for name in asked))


def _is(store: Store, name: str) -> bool:
    return store.name.startswith(name) or name in _called(store)


def _called(store: Store) -> set[str]:
    return {str(store.meta["encoder"]), *(store.owners or ())} if "encoder" in store.meta else set()

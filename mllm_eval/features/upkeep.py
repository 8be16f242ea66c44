"""List feature stores with the encoders that use them, and remove data that nothing will read. Needs no torch."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from itertools import islice, product
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from mllm_eval.catalog import Encoder, load_encoder, names
from mllm_eval.catalog.recipe import Kernels
from mllm_eval.errors import UserError, near
from mllm_eval.features import storeshards as files
from mllm_eval.features.eviction import root_lock
from mllm_eval.features.key import DTYPES, FIELDS, folder_name, key_of
from mllm_eval.features.storeshards import HEADER, SUFFIX, NotAShard, RowForm, ShardWriter, index_of, unheld
from mllm_eval.saved import saved_runs
from mllm_eval.storage import parse_json

# Seconds after which a temporary file is taken for the rest of a crash.
HOUR = 3600.0
# Bytes of rows that are copied at a time.
COPIED = 2**23


class StoreShard(NamedTuple):
    """A shard on disk.

    lines [n]: its index. good [n]: which lines are valid. beyond: bytes after the last row that has a line.
    held: whether a process has it open.
    """

    path: Path
    form: RowForm
    lines: NDArray[np.void]
    good: NDArray[np.bool_]
    beyond: int
    held: bool

    def rows(self) -> Iterator[tuple[int, str, Any]]:
        """Yield row number, image and the row's bytes for each valid line; None for damaged bytes."""
        with open(self.path, "rb") as file:
            for row in np.flatnonzero(self.good).tolist():
                image, expected = self.lines[["image", "checksum"]][row].tolist()
                file.seek(HEADER + row * self.form.row_bytes)
                data = file.read(self.form.row_bytes)
                yield row, image.decode(errors="replace"), data if files.checksum(image, data) == expected else None


def read_shards(folder: Path) -> dict[Path, StoreShard | None]:
    """Return the shards of a store; None for files that are no shards. The caller must hold the root's lock."""
    shards_by_path: dict[Path, StoreShard | None] = {}
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        try:
            form = files.read_form(path)
            lines, good = files.read_lines(path, form)
            with unheld(path) as nobodys:
                beyond = path.stat().st_size - HEADER - len(lines) * form.row_bytes
                shards_by_path[path] = StoreShard(path, form, lines, good, beyond, not nobodys)
        except (OSError, NotAShard):
            shards_by_path[path] = None
    return shards_by_path


@dataclass(frozen=True)
class Store:
    """One store on disk, as `--json` prints it.

    images: distinct images. rows: all rows, dropped and duplicate ones included. row_bytes, bytes: of one row, of the
    whole store. last_used: time of last reading or writing, seconds since 1970, 0 for an empty store.
    owners: encoders of the catalog and of saved runs that read this store; None if meta.json does not describe it.
    orphaned: no known encoder reads it. held: a running process has it open.
    """

    store: str
    encoder: str | None
    owners: list[str] | None
    preprocessing: Any
    layer: int | None
    norm: bool | None
    dtype: str | None
    images: int
    rows: int
    row_bytes: int
    shards: int
    bytes: int
    last_used: float
    orphaned: bool
    held: bool


def read_stores(root: Path) -> list[Store]:
    """Return all stores under a root, sorted by encoder and name; a store has shards or a meta.json."""
    if not root.is_dir():
        return []
    folders = {path.parent for pattern in (f"*{SUFFIX}", "meta.json") for path in root.glob(f"*/{pattern}")}
    with root_lock(root):
        return sorted(map(_read, folders), key=lambda store: (str(store.encoder), store.store))


def _read(folder: Path) -> Store:
    shards = [shard for shard in read_shards(folder).values() if shard]
    try:
        meta = parse_json((folder / "meta.json").read_bytes(), fields_once=False)
    except (OSError, ValueError):
        meta = {}
    meta = _facts(meta)
    owners = _owners(folder.name, meta) if meta else None
    images = np.concatenate([shard.lines["image"][shard.good] for shard in shards] or [np.zeros(0, "S64")])
    return Store(
        folder.name,
        meta.get("encoder"),
        owners,
        meta.get("preprocessing"),
        meta.get("feature_layer"),
        meta.get("norm"),
        meta.get("dtype"),
        len(np.unique(images)),
        sum(len(shard.lines) for shard in shards),
        max((shard.form.row_bytes for shard in shards), default=0),
        len(shards),
        sum(path.stat().st_size for path in folder.iterdir() if path.is_file()),
        max((shard.path.stat().st_mtime for shard in shards), default=0.0),
        owners == [],
        any(shard.held for shard in shards),
    )


def _facts(meta: Any) -> dict[str, Any]:
    """Return the facts in a store's meta.json; an empty dictionary if any fact has an unexpected type."""
    kinds = {"encoder": str, "dtype": str, "preprocessing": dict, "feature_layer": int, "norm": bool}
    whole = isinstance(meta, dict) and all(isinstance(meta.get(name), kind | None) for name, kind in kinds.items())
    return meta if whole else {}


def _owners(name: str, meta: dict[str, Any]) -> list[str]:
    owners = []
    for encoder, digest in known_encoders():
        facts = encoder.model_dump(mode="json", include=set(FIELDS))
        # Hashing weights is slow, so it is done only if all other facts match.
        if any(meta.get(field) != facts.get(field) for field in FIELDS):
            continue
        try:
            weights = digest or encoder.weights.digest()
        except UserError:
            # Without its weights the features may or may not be this encoder's, so they are kept.
            owners.append(encoder.name)
            continue
        ways = product(DTYPES, (None, *DTYPES), get_args(Kernels))
        keys = (key_of(encoder, weights, *way) for way in ways)
        if any(folder_name(key) == name for key in keys):
            owners.append(encoder.name)
    return list(dict.fromkeys(owners))


@cache
def known_encoders() -> list[tuple[Encoder, str | None]]:
    """Return the catalog's encoders and variants with None, and saved runs' encoders with their weights' digest."""
    known: list[tuple[Encoder, str | None]] = []
    for name in names("encoders"):
        try:
            encoder = load_encoder(name)
        except UserError:
            continue
        known += [(encoder, None), *((encoder.variant(variant), None) for variant in encoder.variants)]
    return known + [(run.encoder, run.weights["encoder"]) for run in saved_runs()]


def chosen(stores: Sequence[Store], asked: Sequence[str]) -> list[Store]:
    """Return the stores selected by names: a store's name, its beginning, or an encoder; all if no name is given.

    Raises UserError, with the nearest known name, for a name that selects nothing.
    """
    called = [{str(store.encoder), *(store.owners or ())} - {"None"} for store in stores]
    selected = []
    for name in asked:
        own = [one for one, all_ in zip(stores, called, strict=True) if one.store.startswith(name) or name in all_]
        if not own:
            known = {store.store for store in stores}.union(*called)
            raise UserError(f"no store of features {name!r}.{near(name, known)} `mllm-eval features ls` lists all.")
        selected += own
    return [store for store in stores if not asked or store in selected]


@dataclass(frozen=True)
class Waste:
    """Removable data: `count` files, rows or images, of `size` bytes.

    kind: `cut off` (left by a crash or an older version), `superseded` (dropped or duplicate rows), `orphaned` (a store
        that no known encoder reads) or `scattered` (small shards to be merged, which frees nothing).
    """

    kind: str
    store: str
    count: int
    size: int


def collect(root: Path, remove_them: bool, orphans: bool = True) -> Iterator[Waste]:
    """Find removable data, store by store, and remove it if `remove_them`. Shards that a process holds are kept.

    `orphans`: whether stores that no known encoder reads are included.
    """
    for store in read_stores(root):
        with root_lock(root):
            shards = read_shards(root / store.store)
            if store.orphaned and orphans and not any(shard and shard.held for shard in shards.values()):
                waste = [("orphaned", store.images, store.bytes)]
                if remove_them:
                    shutil.rmtree(root / store.store, ignore_errors=True)
            else:
                waste = [*_strange(root / store.store, shards, remove_them), *_untidy(shards, remove_them)]
        for kind in dict.fromkeys(kind for kind, count, _ in waste if count):
            counts, sizes = zip(*(numbers for one, *numbers in waste if one == kind), strict=True)
            yield Waste(kind, store.store, sum(counts), sum(sizes))


def _strange(folder: Path, shards: dict[Path, StoreShard | None], remove_them: bool) -> Iterator[tuple[str, int, int]]:
    """Find files that do not belong to a store."""
    own = {file for path, shard in shards.items() if shard for file in (path, index_of(path))}
    for path in sorted(set(folder.iterdir()) - own - {folder / "meta.json"}):
        status = path.stat()
        if not (path.name.startswith(".") and time.time() - status.st_mtime < HOUR):
            yield "cut off", 1, status.st_size
            if remove_them:
                path.unlink()


def _untidy(shards: dict[Path, StoreShard | None], remove_them: bool) -> Iterator[tuple[str, int, int]]:
    """Find shards with unusable rows, and small shards; with `remove_them`, rewrite them as new shards."""
    seen: set[bytes] = set()
    again, small = [], []
    # Shards that are held come first, so that of duplicate rows the one that can't be removed is kept.
    for shard in sorted((one for one in shards.values() if one), key=lambda one: not one.held):
        for row in np.flatnonzero(shard.good):
            shard.good[row] = (image := shard.lines["image"][row]) not in seen
            seen.add(image)
        if shard.held:
            continue
        dead = int((~shard.good).sum())
        yield "cut off", int(shard.beyond > 0), shard.beyond
        yield "superseded", dead, dead * (shard.form.row_bytes + files.LINE.itemsize)
        if dead or shard.beyond:
            again.append(shard)
        elif 2 * len(shard.lines) * shard.form.row_bytes < files.SHARD_BYTES:
            small.append(shard)
    if len(again) + len(small) > 1:
        yield "scattered", len(small), 0
        again += small
    group: list[StoreShard] = []
    for one in again if remove_them else ():
        size = sum(int(each.good.sum()) * each.form.row_bytes for each in (*group, one))
        if group and (size > files.SHARD_BYTES or one.form != group[0].form):
            _rewrite(group)
            group = []
        group.append(one)
    if group:
        _rewrite(group)


def _rewrite(group: Sequence[StoreShard]) -> None:
    """Copy the valid, undamaged rows of several shards into a new one, then remove the old shards."""
    with ExitStack() as locks:
        free = [shard for shard in group if locks.enter_context(unheld(shard.path))]
        writer = ShardWriter(group[0].path.parent, group[0].form)
        used = max((shard.path.stat().st_mtime_ns for shard in free), default=0)
        rows = ((image, data) for shard in free for _, image, data in shard.rows() if data is not None)
        while part := list(islice(rows, 1 + COPIED // writer.form.row_bytes)):
            images, copied = zip(*part, strict=True)
            writer.append(images, np.frombuffer(b"".join(copied), np.uint8).reshape(len(part), -1))
        writer.close()
        if writer.count:
            os.utime(writer.shard, ns=(used, used))
        for shard in free:
            files.remove(shard.path)

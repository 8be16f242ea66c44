"""Conversations as token arrays, which are made once per data set and tokenizer and then memory-mapped."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mllm_eval.catalog import TokenGrid
from mllm_eval.config import short_hash
from mllm_eval.data.conversations import ConversationSet
from mllm_eval.data.samples import ImageRef
from mllm_eval.decoding import PLAIN, Decoding, load_image, size_of
from mllm_eval.disk import as_written, checksum
from mllm_eval.storage import known_sha256, results_home
from mllm_eval.train.tokenising import CHANGES, DONE, LEFT_OUT, BudgetedSet, Noted, write_tokens

log = logging.getLogger(__name__)

VERSION = 5


class Images(Sequence[tuple[str, str]]):
    """(path, SHA-256) of each image, from memory-mapped arrays; the SHA-256 is "" where images are not hashed."""

    def __init__(self, names: NDArray[np.uint8], ends: NDArray[np.int64], digests: NDArray[np.uint8]) -> None:
        self._names = names
        self._ends = ends
        self.digests = digests

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, image: Any) -> Any:
        """Return path and SHA-256 of the image with this index; slices are not supported."""
        at = range(len(self))[image]
        name = self._names[self._ends[at] : self._ends[at + 1]].tobytes().decode()
        return name, self.digests[at].tobytes().hex() if len(self.digests) else ""


@dataclass(frozen=True)
class TokenisedSet:
    """The tokenised rows of a stage's data, in memory-mapped arrays.

    ids, targets [tokens]: all rows concatenated, with one token per image, and whether each token is a target.
    offsets [n + 1]: the index in `ids` at which each row begins.
    image_offsets [n + 1], image_of: the images of each row, as indices into `images`.
    first_target [n]: index of a row's first target. origin [n, 2]: index of its set, and its line in the file.
    left_out: reason -> number of rows left out; the file `listing` names them.
    changed: kind -> number of changes to used rows; the file `changes` names them.
    files, budgets, broken: per set, its file, how many broken rows may be left out, and how many were.
    how: how its images are decoded.
    sizes [images, 2]: width and height in pixels, 0 where unknown; None if they are not needed.
    """

    ids: NDArray[np.int32]
    targets: NDArray[np.bool_]
    offsets: NDArray[np.int64]
    image_offsets: NDArray[np.int64]
    image_of: NDArray[np.int64]
    first_target: NDArray[np.int64]
    origin: NDArray[np.int64]
    images: Images
    left_out: dict[str, int]
    listing: Path
    files: tuple[Path, ...]
    budgets: tuple[int, ...]
    broken: tuple[int, ...]
    changed: dict[str, int]
    changes: Path
    how: Decoding = PLAIN
    sizes: NDArray[np.int32] | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def where(self, row: int) -> str:
        """Return `file:line` of a row."""
        number, line = self.origin[row].tolist()
        return f"{self.files[number]}:{line}"

    def lengths(self, image_tokens: int) -> NDArray[np.int64]:
        """Return the length [n] of each row in tokens, each image expanded to `image_tokens`, before any cut."""
        lengths: NDArray[np.int64] = np.diff(self.offsets) + np.diff(self.image_offsets) * (image_tokens - 1)
        return lengths

    def kept(self, grid: TokenGrid, images: Sequence[int]) -> NDArray[np.int64]:
        """Return the shown rows and columns [len(images), 2] of these images' token grids."""
        sizes = np.zeros((len(images), 2), np.int32) if self.sizes is None else self.sizes[np.asarray(images, np.int64)]
        return grid.all_kept(sizes)

    def hidden(self, grid: TokenGrid) -> NDArray[np.int64]:
        """Return the number of hidden positions [n] of each row, which are those of its images' padding."""
        if not grid.hide or self.sizes is None:
            return np.zeros(len(self), np.int64)
        kept = grid.all_kept(self.sizes)
        of_image = grid.positions - kept[:, 0] * (kept[:, 1] + grid.row_token)
        sums = np.concatenate([np.zeros(1, np.int64), np.cumsum(of_image[self.image_of])])
        return np.diff(sums[self.image_offsets])

    def limits(self, max_length: int, dummy_positions: int) -> NDArray[np.int64]:
        """Return the maximum length [n] of each row: `max_length`, less `dummy_positions` for rows without images."""
        return max_length - np.where(np.diff(self.image_offsets) == 0, dummy_positions, 0).astype(np.int64)

    def usable(self, image_tokens: int, max_length: int | NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the numbers of rows with a target left after the cut to `max_length`, one value or one per row."""
        first = self.first_target + np.diff(self.image_offsets) * (image_tokens - 1)
        return np.flatnonzero(first < max_length)

    def images_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the images of these rows as ascending indices into `images`."""
        wanted = np.zeros(len(self), np.bool_)
        wanted[rows] = True
        return np.unique(self.image_of[np.repeat(wanted, np.diff(self.image_offsets))])

    def names(self, numbers: NDArray[np.int64]) -> list[str]:
        """Return the SHA-256 of images given by index, as hex digits."""
        return [digest.tobytes().hex() for digest in self.images.digests[numbers]]

    def find(self, names: Sequence[str]) -> NDArray[np.int64]:
        """Return the ascending indices of images with these SHA-256; empty where images are not hashed."""
        if not len(self.images.digests):
            return np.zeros(0, np.int64)
        wanted = np.frombuffer(bytes.fromhex("".join(names)), np.uint64).reshape(-1, 4)
        # Comparing eight bytes first leaves almost only true matches for the exact comparison.
        near = np.flatnonzero(np.isin(self.images.digests.view(np.uint64)[:, 0], wanted[:, 0]))
        exact = [name in set(names) for name in self.names(near)]
        return near[np.array(exact, np.bool_)]

    def refs(self, numbers: NDArray[np.int64]) -> list[ImageRef]:
        """Return images given by index as references for encoding."""
        chosen = [self.images[number] for number in numbers]
        paths, how = [(Path(path), sha) for path, sha in chosen], self.how
        return [ImageRef(sha, partial(load_image, at, how), partial(size_of, at, how)) for at, sha in paths]


@dataclass(frozen=True, slots=True)
class ImageReading:
    """What is read of the images of rows.

    live: images are not hashed, as their features will not be stored. how: how they are decoded.
    sized: whether their width and height are read.
    """

    live: bool = False
    how: Decoding = PLAIN
    sized: bool = False


AS_STORED = ImageReading()
"""For images whose features go into the feature store."""


def tokenise(
    sets: Sequence[ConversationSet],
    tokenizer: Any,
    tokenizer_digest: str,
    template: str,
    budgets: Sequence[int] = (),
    images: ImageReading = AS_STORED,
    processes: int = 1,
) -> TokenisedSet:
    """Return the tokenised rows of all sets in order, from the cache in results/tokens/<key> or tokenised anew.

    An interrupted call resumes where it was.

    Args:
        tokenizer_digest: identifies the tokenizer in the cache's key.
        budgets: how many broken rows of each set may be left out; by default 0.
        processes: number of processes that read and tokenise.

    Raises:
        UserError: a broken row, named by file and line, beyond its set's budget.
    """
    allowed = list(budgets) or [0] * len(sets)
    sources = [BudgetedSet(one, budget) for one, budget in zip(sets, allowed, strict=True)]
    live, how = images.live, images.how
    noted = Noted(template, None if live else how, how if images.sized else None)
    folder = results_home() / "tokens" / _key(sources, tokenizer_digest, template, noted.hashed, noted.sized)

    def usable(made: Path) -> bool:
        return (made / DONE).is_file() and _as_written(made) and (live or _fresh(made))

    if not usable(folder):
        write_tokens(folder, sources, tokenizer, noted, usable, processes)
    arrays = {
        name: np.load(folder / f"{name}.npy", mmap_mode="r")
        for name in ("ids", "targets", "offsets", "image_offsets", "image_of", "first_target", "origin")
    }
    named = Images(*(np.load(folder / f"image_{name}.npy", mmap_mode="r") for name in ("names", "ends", "digests")))
    done = json.loads((folder / DONE).read_bytes())
    return TokenisedSet(
        **arrays,
        images=named,
        left_out=done["left_out"],
        listing=folder / LEFT_OUT,
        files=tuple(one.path for one in sets),
        budgets=tuple(allowed),
        broken=tuple(done["broken"].get(str(number), 0) for number in range(len(sets))),
        how=how,
        sizes=np.load(folder / "image_sizes.npy", mmap_mode="r") if images.sized else None,
        changed=done["changed"],
        changes=folder / CHANGES,
    )


def _key(
    sources: Sequence[BudgetedSet],
    tokenizer_digest: str,
    template: str,
    hashed: Decoding | None,
    measured: Decoding | None,
) -> str:
    parts: dict[str, Any] = {
        "version": VERSION,
        "template": template,
        "tokenizer": tokenizer_digest,
        "live": hashed is None,
        # Decoding matters only where images are hashed.
        **({} if hashed is None else {"pixels": hashed}),
        **({} if measured is None else {"sizes": measured}),
        "sets": [
            [
                known_sha256(one.rows.path),
                str(one.rows.images.absolute()),
                one.rows.exclude,
                one.rows.system,
                one.budget,
                sorted(one.rows.ignore),
            ]
            for one in sources
        ],
    }
    return short_hash(parts, 16)


verified_folders: set[tuple[Path, int]] = set()
"""Folders whose arrays this process has verified, with their inode, which changes when a folder is made again."""


def _as_written(folder: Path) -> bool:
    """Whether the arrays have their recorded checksums; logs a warning otherwise."""
    key = folder, folder.stat().st_ino
    if key not in verified_folders:
        said = "%s: not what was written there (checksum); its rows are tokenised again"
        if not as_written(folder / DONE):
            log.warning(said, folder / DONE)
            return False
        noted = json.loads((folder / DONE).read_bytes()).get("sha256", {})
        for name, digest in noted.items():
            if not (folder / name).is_file() or checksum(folder / name) != digest:
                log.warning(said, folder / name)
                return False
        verified_folders.add(key)
    return True


def _fresh(folder: Path) -> bool:
    """Whether size and modification time of every image file are those at the time of hashing."""
    stamps = np.load(folder / "image_stamps.npy", mmap_mode="r")
    for (path, _), stamp in zip(_images(folder), stamps, strict=True):
        try:
            now = os.stat(path)
        except OSError:
            return False
        if (now.st_size, now.st_mtime_ns) != tuple(stamp.tolist()):
            return False
    return True


def _images(folder: Path) -> Iterator[tuple[str, str]]:
    yield from Images(*(np.load(folder / f"image_{name}.npy", mmap_mode="r") for name in ("names", "ends", "digests")))

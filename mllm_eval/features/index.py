"""Which row of which shard holds an image: about 60 bytes an image, found by bisection."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from mllm_eval.features.shards import ENTRY

PLACE = np.dtype([("image", np.uint8, (32,)), ("checksum", "<u4"), ("shard", "<i4"), ("row", "<i4"), ("state", "u1")])
UNREAD, GOOD, GONE = 0, 1, 2
# So many new places are kept in a dict before they are sorted into the rest.
RECENT = 4096


class Index:
    """Places of images; what is added later is found, too. Numbers of places stay what they are."""

    def __init__(self) -> None:
        self._places = np.zeros(0, PLACE)
        self._count = 0
        self._keys = np.zeros(0, np.uint64)
        self._order = np.zeros(0, np.int64)
        self._recent: dict[bytes, int] = {}

    def __len__(self) -> int:
        """Images that have a place."""
        return len(np.unique(self._living()["image"], axis=0)) if self._count else 0

    def _living(self) -> NDArray[np.void]:
        places = self._places[: self._count]
        living: NDArray[np.void] = places[places["state"] != GONE]
        return living

    def add(self, found: Iterable[tuple[int, NDArray[np.int64], NDArray[np.void]]]) -> None:
        """Add (shard, rows [n], their entries [n]); many at once cost one sort."""
        parts = []
        for shard, rows, entries in found:
            part = np.zeros(len(rows), PLACE)
            part["image"], part["checksum"] = entries["image"], entries["checksum"]
            part["shard"], part["row"] = shard, rows
            parts.append(part)
        added = np.concatenate(parts) if parts else np.zeros(0, PLACE)
        if not len(added):
            return
        start, self._count = self._count, self._count + len(added)
        if self._count > len(self._places):
            # One exact allocation at the start, and room to grow by a quarter after that.
            places = np.zeros(self._count + (self._count // 4 if start else 0), PLACE)
            places[:start] = self._places[:start]
            self._places = places
        self._places[start : self._count] = added
        if len(self._recent) + len(added) <= RECENT:
            self._recent |= {image.tobytes(): start + at for at, image in enumerate(added["image"])}
            return
        self._sort()

    def _sort(self) -> None:
        self._recent.clear()
        places = self._places[: self._count]
        living = np.flatnonzero(places["state"] != GONE)
        keys = _keys(places["image"][living])
        order = np.argsort(keys, kind="stable")
        self._order, self._keys = living[order], keys[order]

    def find(self, images: Sequence[str]) -> NDArray[np.int64]:
        """The places' numbers [n] of images (SHA-256 in hex), -1 for those without."""
        digests = np.frombuffer(bytes.fromhex("".join(images)), np.uint8).reshape(-1, 32)
        found = np.full(len(digests), -1, np.int64)
        if len(self._keys):
            keys = _keys(digests)
            at = np.searchsorted(self._keys, keys)
            asked = np.arange(len(digests))
            while len(asked):
                asked = asked[at[asked] < len(self._keys)]
                asked = asked[self._keys[at[asked]] == keys[asked]]
                places = self._order[at[asked]]
                same = (self._places["image"][places] == digests[asked]).all(1)
                same &= self._places["state"][places] != GONE
                found[asked[same]] = places[same]
                asked = asked[~same]
                at[asked] += 1
        if self._recent:
            for at_ in np.flatnonzero(found < 0):
                found[at_] = self._recent.get(digests[at_].tobytes(), -1)
        return found

    def place(self, number: int) -> tuple[int, int, int, bool]:
        """Shard, row and checksum of a place, and whether the row was read and found good."""
        one = self._places[number]
        return int(one["shard"]), int(one["row"]), int(one["checksum"]), bool(one["state"] == GOOD)

    def shards(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """The shards [n] of places."""
        found: NDArray[np.int64] = self._places["shard"][numbers].astype(np.int64)
        return found

    def order(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """The order in which places lie on the disk, as numbers into `numbers`."""
        return np.lexsort((self._places["row"][numbers], self._places["shard"][numbers]))

    def mark_good(self, number: int) -> None:
        """The row at a place was read and is what was written."""
        self._places["state"][number] = GOOD

    def drop(self, numbers: NDArray[np.int64]) -> None:
        """These places are gone; another of the same image is found from now on."""
        if not len(numbers):
            return
        self._places["state"][numbers] = GONE
        # One of the recent may have hidden another place of its image.
        if self._recent:
            self._sort()

    def drop_shards(self, shards: Sequence[int]) -> None:
        """Nothing is in these shards any more."""
        self.drop(np.flatnonzero(np.isin(self._places["shard"][: self._count], shards)))


def _keys(digests: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """The first eight bytes [n]: enough to bisect by."""
    return np.ascontiguousarray(digests[:, :8]).view("<u8").ravel()


assert ENTRY.itemsize == 40

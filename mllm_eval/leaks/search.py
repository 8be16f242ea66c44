"""Which of many 64-bit hashes lie near a query: multi-index hashing (Norouzi, Punjani & Fleet 2012), in numpy.

A hash is cut into four words of 16 bits. Where two hashes differ in at most r bits, some word of theirs differs in few:
with radii r_i of the words such that the sum of r_i + 1 is r + 1, at least one word is within its own. So each word's
table is looked up at all values that near, and only what stands there is compared. The work is a small part of all
pairs; memory is the hashes, once more in the order of a word, and blocks of `BLOCK` pairs.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
WORDS, WORD = 4, 16
BLOCK = 2**21


class Near(NamedTuple):
    """Pairs of a block: number of the query, number of the hash, bits in which they differ. A pair may come again."""

    query: NDArray[np.int64]
    found: NDArray[np.int64]
    distance: NDArray[np.uint8]


def near(hashes: Hashes, queries: Hashes, radius: int) -> Iterator[Near]:
    """All pairs of a query [Q] and a hash [N] that differ in at most `radius` bits, a block at a time.

    The same pair comes as often as words of it are near, four times at most.
    """
    if not len(hashes) or not len(queries):
        return
    for word, own in enumerate(_radii(radius)):
        if own >= 0:
            yield from _near_in_word(hashes, queries, radius, word, own)


def _radii(radius: int) -> list[int]:
    """The radius of each word: together `radius - WORDS + 1`; -1 for a word that needs no look."""
    share, more = divmod(radius + 1, WORDS)
    return [share - 1 + (word < more) for word in range(WORDS)]


def _word(hashes: Hashes, word: int) -> NDArray[np.int64]:
    return ((hashes >> np.uint64(WORD * word)) & np.uint64(2**WORD - 1)).astype(np.int64)


def _masks(radius: int) -> list[int]:
    return [sum(1 << bit for bit in bits) for size in range(radius + 1) for bits in combinations(range(WORD), size)]


def _near_in_word(hashes: Hashes, queries: Hashes, radius: int, word: int, own: int) -> Iterator[Near]:
    value = _word(hashes, word)
    order = np.argsort(value, kind="stable").astype(np.uint32 if len(value) < 2**32 else np.int64)
    lying = hashes[order]
    begins = np.concatenate([[0], np.cumsum(np.bincount(value, minlength=2**WORD))])
    del value
    asked = _word(queries, word)
    for mask in _masks(own):
        bucket = asked ^ mask
        start, size = begins[bucket], begins[bucket + 1] - begins[bucket]
        for rows, first, length in _blocks(size):
            query = np.repeat(rows, length)
            place = np.arange(len(query)) - np.repeat(np.cumsum(length) - length, length)
            place += np.repeat(start[rows] + first, length)
            apart = np.bitwise_count(lying[place] ^ queries[query])
            kept = np.flatnonzero(apart <= radius)
            if len(kept):
                yield Near(query[kept], order[place[kept]].astype(np.int64), apart[kept])


def _blocks(size: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]]:
    """Queries, where each begins in its bucket, and how much of it, so that a block has about `BLOCK` pairs.

    A bucket may hold more than a block: it is taken in parts.
    """
    part = 0
    while True:
        left = np.clip(size - part, 0, BLOCK)
        rows = np.flatnonzero(left)
        if not len(rows):
            return
        ends = np.cumsum(left[rows])
        cuts = np.unique(np.searchsorted(ends, np.arange(BLOCK, ends[-1] + BLOCK, BLOCK), side="right"))
        begin = 0
        for cut in [*cuts.tolist(), len(rows)]:
            stop = min(max(cut, begin + 1), len(rows))
            if begin < stop:
                some = rows[begin:stop]
                yield some, np.full(len(some), part), left[some]
                begin = stop
        part += BLOCK


def nearest(
    hashes: Hashes, views: NDArray[np.uint64], radius: int, most: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.uint8], NDArray[np.int64]]:
    """Pictures near others by any of their views; [n] picture, hash, view, distance, each pair once.

    Args:
        hashes: [N] of what is looked through. views: [P, V] of each picture that is looked for.
        most: pairs of a picture that are kept, its nearest ones.

    Returns:
        picture, hash, view and distance of each pair, and [P] how many pairs each picture has in all; of a picture with
        very many (over a million in all are held back for) the count is of those that were left when others went.
    """
    pictures, several = views.shape
    held: list[NDArray[np.int64]] = []
    waiting = 0
    total = np.zeros(pictures, np.int64)

    def reduced(parts: list[NDArray[np.int64]], last: bool) -> list[NDArray[np.int64]]:
        rows = np.concatenate(parts, axis=1) if parts else np.zeros((4, 0), np.int64)
        # Each pair once, by its nearest view; then the nearest of each picture.
        rows = rows[:, np.lexsort((rows[2], rows[3], rows[1], rows[0]))]
        fresh = np.ones(rows.shape[1], bool)
        fresh[1:] = (rows[0, 1:] != rows[0, :-1]) | (rows[1, 1:] != rows[1, :-1])
        rows = rows[:, fresh]
        counts = np.bincount(rows[0], minlength=pictures)
        np.maximum(total, counts, out=total)
        rows = rows[:, np.lexsort((rows[1], rows[3], rows[0]))]
        place = np.arange(rows.shape[1]) - np.repeat(np.cumsum(counts) - counts, counts)
        return [rows[:, place < most]] if last or counts.max(initial=0) > most else [rows]

    for block in near(hashes, views.reshape(-1), radius):
        held.append(np.stack([block.query // several, block.found, block.query % several, block.distance]))
        waiting += len(block.query)
        if waiting > 2 * BLOCK:
            held = reduced(held, False)
            # What stays must not be sorted again with every block.
            waiting = 0
    (rows,) = reduced(held, True)
    return rows[0], rows[1], rows[2], rows[3].astype(np.uint8), total

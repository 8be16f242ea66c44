"""Finds the 64-bit hashes near a query: multi-index hashing (Norouzi, Punjani & Fleet 2012), in numpy.

A hash is divided into four words of 16 bits, and each word gets its own radius r_i, with the sum of r_i + 1 equal to r
+ 1. If two hashes differ in at most r bits, at least one of their words then differs in at most its r_i. So each word's
table is looked up at all values within its radius, and only the hashes found there are compared. That is a small part
of all pairs. Memory holds the hashes, a copy sorted by one word with its order (12 bytes a hash), and blocks of `BLOCK`
pairs.
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
    """A block of pairs: index of the query, index of the hash, and their distance in bits. Pairs may repeat."""

    query: NDArray[np.int64]
    found: NDArray[np.int64]
    distance: NDArray[np.uint8]


def near(hashes: Hashes, queries: Hashes, radius: int) -> Iterator[Near]:
    """Yields all pairs of a query uint64 [Q] and a hash uint64 [N] that differ in at most `radius` bits, in blocks.

    A pair occurs once for each of its words that is within the word's radius, so at most four times.
    """
    if not len(hashes) or not len(queries):
        return
    for word, own in enumerate(_radii(radius)):
        if own >= 0:
            yield from _near_in_word(hashes, queries, radius, word, own)


def _radii(radius: int) -> list[int]:
    """The radius of each word; their sum is `radius - WORDS + 1`. -1 means that the word need not be looked up."""
    share, more = divmod(radius + 1, WORDS)
    return [share - 1 + (word < more) for word in range(WORDS)]


def _word(hashes: Hashes, word: int) -> NDArray[np.uint16]:
    return np.ascontiguousarray(hashes.astype("<u8", copy=False).view("<u2")[word::WORDS])


def _masks(radius: int) -> list[int]:
    return [sum(1 << bit for bit in bits) for size in range(radius + 1) for bits in combinations(range(WORD), size)]


def _near_in_word(hashes: Hashes, queries: Hashes, radius: int, word: int, own: int) -> Iterator[Near]:
    value = _word(hashes, word)
    order = np.argsort(value, kind="stable").astype(np.uint32 if len(value) < 2**32 else np.int64)
    begins = np.searchsorted(value[order], np.arange(2**WORD + 1))
    del value
    lying = hashes[order]
    asked = _word(queries, word).astype(np.int64)
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
    """Splits the lookups into blocks of about `BLOCK` pairs: queries, their starts in the buckets, and lengths.

    A bucket that is larger than a block is split too.
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


class Nearest(NamedTuple):
    """Pairs of an image and a hash, sorted by image and then by distance.

    image, hash, view: int64 [n], indices of each pair's image, hash and nearest view. distance: uint8 [n], in bits.
    total: int64 [P], the number of all pairs of each image, those that are not kept included.
    """

    image: NDArray[np.int64]
    hash: NDArray[np.int64]
    view: NDArray[np.int64]
    distance: NDArray[np.uint8]
    total: NDArray[np.int64]


def nearest(hashes: Hashes, views: NDArray[np.uint64], radius: int, most: int) -> Nearest:
    """The nearest hashes of images by any of their views, each pair of image and hash once.

    Args:
        hashes: uint64 [N], the hashes to search.
        views: uint64 [P, V], the hashes of the views of each image to look for.
        radius: largest distance in bits.
        most: number of nearest pairs to keep of each image.

    Returns:
        The pairs. `total` is a lower bound where the pairs are so many (over 2 * BLOCK in all) that some are dropped
        during the search.
    """
    pictures, several = views.shape
    held: list[NDArray[np.int64]] = []
    waiting = 0
    total = np.zeros(pictures, np.int64)

    def reduced(parts: list[NDArray[np.int64]], last: bool) -> list[NDArray[np.int64]]:
        rows = np.concatenate(parts, axis=1) if parts else np.zeros((4, 0), np.int64)
        # Keep each pair once, with its nearest view; then the nearest pairs of each image.
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
            # Counts new pairs only, so that the kept ones are not sorted again with every block.
            waiting = 0
    (rows,) = reduced(held, True)
    return Nearest(rows[0], rows[1], rows[2], rows[3].astype(np.uint8), total)

"""Which hashes lie near: held against all pairs."""

from __future__ import annotations

import numpy as np
import pytest
from peak_memory import peak

from mllm_eval.leaks import search
from mllm_eval.leaks.search import Near, near, nearest


def hashes(count: int, seed: int) -> search.Hashes:
    return np.random.default_rng(seed).integers(0, 2**64, count, dtype=np.uint64)


def changed(hashes_: search.Hashes, bits: np.ndarray, seed: int = 5) -> search.Hashes:
    """The hashes with so many bits of each turned."""
    rng = np.random.default_rng(seed)
    masks = [sum(1 << int(bit) for bit in rng.choice(64, count, replace=False)) for count in bits]
    return hashes_ ^ np.array(masks, np.uint64)


def found(blocks: list[Near]) -> dict[tuple[int, int], int]:
    pairs: dict[tuple[int, int], int] = {}
    for block in blocks:
        for query, place, distance in zip(*(column.tolist() for column in block), strict=True):
            assert pairs.setdefault((query, place), distance) == distance
    return pairs


def brute(many: search.Hashes, queries: search.Hashes, radius: int) -> dict[tuple[int, int], int]:
    apart = np.bitwise_count(queries[:, None] ^ many)
    return {(q, n): int(apart[q, n]) for q, n in np.argwhere(apart <= radius).tolist()}


@pytest.mark.parametrize("radius", [0, 1, 2, 3, 4, 7, 10, 13])
def test_all_pairs_within_the_radius_are_found_and_no_others(radius: int) -> None:
    many = hashes(400, 1)
    queries = changed(np.resize(many, 240), np.arange(240) % 16)
    expected = brute(many, queries, radius)
    assert found(list(near(many, queries, radius))) == expected
    assert set(expected.values()) >= {0, radius}


def test_a_word_that_many_share_is_taken_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "BLOCK", 32)
    many = np.concatenate([np.full(150, 7, np.uint64), hashes(100, 2)])
    queries = np.concatenate([np.array([7, 15], np.uint64), hashes(5, 3)])
    blocks = list(near(many, queries, 6))
    assert found(blocks) == brute(many, queries, 6)
    assert max(len(block.query) for block in blocks) <= 64


def test_no_hashes_and_no_queries_have_no_pairs() -> None:
    nothing = np.zeros(0, np.uint64)
    assert list(near(nothing, hashes(3, 0), 5)) == list(near(hashes(3, 0), nothing, 5)) == []


def test_each_pair_comes_once_by_its_nearest_view_and_only_the_nearest_of_a_picture(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base = hashes(1, 4)[0]
    many = changed(np.full(6, base), np.array([0, 1, 2, 3, 4, 40]))
    views = np.array([[many[3], base], [~base, ~base]], np.uint64)
    for block in (search.BLOCK, 1):
        monkeypatch.setattr(search, "BLOCK", block)
        picture, place, view, distance, total = nearest(many, views, 8, 3)
        assert picture.tolist() == [0, 0, 0]
        assert (place.tolist(), view.tolist(), distance.tolist()) == ([0, 3, 1], [1, 0, 1], [0, 0, 1])
        assert total.tolist() == [5, 0]


def test_pairs_compared_are_a_small_part_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    many, queries, compared = hashes(100_000, 6), hashes(500, 7), 0

    def count(left: np.ndarray) -> np.ndarray:
        nonlocal compared
        compared += left.size
        return counted(left)

    counted = np.bitwise_count
    monkeypatch.setattr(search.np, "bitwise_count", count)
    list(near(many, queries, 10))
    assert 0 < compared < 0.02 * many.size * queries.size


@pytest.mark.slow
def test_a_search_holds_a_sorted_copy_and_its_order_and_no_more() -> None:
    queries = hashes(20, 7)

    def searched(count: int) -> int:
        many = hashes(count, 6)
        return peak(lambda: sum(len(block.query) for block in near(many, queries, 2)))

    few, many = 50_000, 250_000
    # The order is sorted as 8 bytes before it is kept as 4; then come the copy of 8 and the order of 4.
    assert (searched(many) - searched(few)) / (many - few) < 17

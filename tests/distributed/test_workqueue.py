"""Work shared among processes: every piece once, the costliest first, nobody idle while much is left."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mllm_eval.distributed import Share


class Numbers:
    """A board of one process that plays several; nothing comes while it waits."""

    def __init__(self) -> None:
        self.numbers: Counter[str] = Counter()

    def add(self, name: str, amount: int) -> int:
        self.numbers[name] += amount
        return self.numbers[name]

    def wait(self, names: list[str], timeout: timedelta) -> None:
        assert all(self.numbers[name] for name in names), "waits for ever"


def shares(size: int) -> list[Share]:
    """The shares of processes that see one board."""
    board = Numbers()
    return [Share(rank, size, board) for rank in range(size)]


def played(work: list[int], speeds: list[int]) -> tuple[list[list[int]], list[float]]:
    """What processes of these speeds take, and when each has nothing left to do."""
    hands = [share.take(work) for share in shares(len(speeds))]
    taken: list[list[int]] = [[] for _ in speeds]
    clocks = [0.0] * len(speeds)
    busy = set(range(len(speeds)))
    while busy:
        rank = min(busy, key=lambda one: (clocks[one], one))
        number = next(hands[rank], None)
        if number is None:
            busy.remove(rank)
            continue
        taken[rank].append(number)
        clocks[rank] += work[number] / speeds[rank]
    return taken, clocks


@settings(max_examples=60, deadline=None)
@given(
    work=st.lists(st.integers(1, 1000), max_size=80),
    speeds=st.lists(st.integers(1, 10), min_size=1, max_size=5),
)
def test_every_piece_is_taken_once_and_nobody_is_idle_for_longer_than_the_longest_piece(
    work: list[int], speeds: list[int]
) -> None:
    taken, clocks = played(work, speeds)
    assert sorted(number for one in taken for number in one) == list(range(len(work)))
    longest = max((work[number] / speeds[rank] for rank, one in enumerate(taken) for number in one), default=0.0)
    assert max(clocks) - min(clocks) <= longest + 1e-6


def test_a_slow_process_does_not_hold_the_others_up() -> None:
    work = [10] * 100 + [100] * 10
    _, clocks = played(work, [4, 4, 1])
    # By count each would have a third: 2000 / 3 units, at speed 1. In the ideal all end after 2000 / 9.
    assert max(clocks) <= 1.15 * sum(work) / 9


def test_one_process_takes_all_in_order_and_several_the_costliest_first() -> None:
    assert list(Share().take([1, 5, 3])) == [0, 1, 2]
    first, second = shares(2)
    hands = first.take([1, 5, 3, 5]), second.take([1, 5, 3, 5])
    assert [next(hands[0]), next(hands[1]), next(hands[1]), next(hands[0])] == [1, 3, 2, 0]
    assert next(hands[0], None) is None and next(hands[1], None) is None
    # Another list of work is another count.
    assert next(second.take([7])) == 0 and next(first.take([7]), None) is None


def test_rank_0_comes_first_where_it_must_and_last_when_all_have_come() -> None:
    done: list[str] = []
    first, second, third = shares(3)
    with pytest.raises(AssertionError, match="waits for ever"):
        second.first(lambda: done.append("not mine"))
    first, second, third = shares(3)
    first.first(lambda: done.append("prepared"))
    for other in (second, third):
        other.first(lambda: done.append("not mine"))
    for part in "ab":
        second.last(lambda: done.append("not mine"))
        first.last(lambda part=part: done.append(part))  # type: ignore[misc]
    assert done == ["prepared"]
    third.last(lambda: done.append("not mine"))
    # Nobody has waited; what all have come to is done when rank 0 looks again.
    first.last(lambda: done.append("c"))
    assert done == ["prepared", "a"]
    for other in (second, third):
        other.last(lambda: done.append("not mine"))
    third.last(lambda: done.append("not mine"))
    for share in (third, second, first):
        share.end()
    assert done == ["prepared", "a", "b", "c"]


def test_rank_0_stays_until_the_others_ask_no_more() -> None:
    first, second = shares(2)
    with pytest.raises(AssertionError, match="waits for ever"):
        first.close()
    first, second = shares(2)
    second.close()
    first.close()
    Share().close()


def test_a_sum_is_everybodys() -> None:
    counters = [share.counter() for share in shares(2)]
    assert [counters[0](3), counters[1](4), counters[0](0)] == [3, 7, 7]
    alone = Share()
    one, other = alone.counter(), alone.counter()
    assert [one(3), one(4), other(1)] == [3, 7, 1]


def test_one_process_alone_does_all_at_once() -> None:
    done: list[int] = []
    share = Share()
    share.first(lambda: done.append(1))
    share.last(lambda: done.append(2))
    assert done == [1, 2]
    share.end()
    assert done == [1, 2]


def test_several_processes_need_a_board() -> None:
    with pytest.raises(ValueError, match="2 processes need a board"):
        Share(0, 2)

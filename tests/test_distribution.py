"""Which answers were given: counts, the table of golds and answers, and the warning."""

from __future__ import annotations

from typing import Any

import pytest

from mllm_eval.distribution import distribution, label, of_lines, one_answer


def counted(said: list[str | None], golds: list[str], scores: list[float | None] | None = None) -> dict[str, Any]:
    return distribution(zip(said, scores or [1.0] * len(said), strict=True), golds)


@pytest.mark.parametrize(
    ("text", "found"),
    [("c", "C"), ("(A)", "A"), ("B.", "B"), ("Yes", "yes"), ("no", "no"), ("cat", None), ("", None), (None, None)],
)
def test_a_label_is_a_letter_or_yes_or_no(text: str | None, found: str | None) -> None:
    assert label(text) == found


def test_golds_and_answers_are_counted_together_whatever_their_dress() -> None:
    found = counted(["a", "B", None, "c", "b"], ["(A)", "A", "B", "(B)", "B"], [1, 0, 0, 0, None])
    assert found["answers"] == {"A": 1, "B": 1, "C": 1}
    assert found["golds"] == {"A": 2, "B": 2}
    assert found["confusion"] == {"A": {"A": 1, "B": 1}, "B": {"": 1, "C": 1}}


def test_golds_that_number_options_are_their_letters() -> None:
    assert counted(["A", "C", "C"], ["0", "2", "1"])["confusion"] == {"A": {"A": 1}, "B": {"C": 1}, "C": {"C": 1}}
    assert counted(["4", "2", "1"], ["0", "2", "1"])["confusion"] == {}


def test_open_answers_have_no_table_and_long_tails_are_counted_together() -> None:
    found = counted([f"word {n}" for n in range(30)], ["cat"] * 30)
    assert found["confusion"] == {} and len(found["answers"]) == 20 and found["others"] == 10


@pytest.mark.parametrize(
    ("said", "golds", "warned"),
    [
        (["C"] * 83 + ["A"] * 17, ["A", "B", "C", "D"] * 25, ("C", 0.83)),
        (["A"] * 90 + ["B"] * 10, ["A"] * 88 + ["B"] * 12, None),
        (["yes"] * 63 + ["no"] * 37, ["yes", "no"] * 50, None),
        (["yes"] * 80 + ["no"] * 20, ["yes", "no"] * 50, ("yes", 0.8)),
        (["4"] * 60 + ["5"] * 40, [str(n) for n in range(10)] * 10, ("4", 0.6)),
        (["C"] * 10, ["A", "B"] * 5, None),
        ([None] * 40, ["A", "B"] * 20, None),
    ],
)
def test_one_answer_for_most_is_warned_of_unless_it_is_right_as_often(
    said: list[str | None], golds: list[str], warned: tuple[str, float] | None
) -> None:
    assert one_answer(counted(said, golds)) == warned


def test_without_golds_two_answers_need_three_quarters() -> None:
    def lines(*parts: tuple[str, int]) -> list[dict[str, Any]]:
        return [{"parsed": text, "score": 0.0} for text, many in parts for _ in range(many)]

    assert one_answer(of_lines(lines(("a", 60), ("b", 20), ("c", 20)))) == ("A", 0.6)
    assert one_answer(of_lines(lines(("yes", 60), ("no", 40)))) is None
    assert one_answer(of_lines(lines(("yes", 76), ("no", 24)))) == ("yes", 0.76)

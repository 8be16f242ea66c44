"""Single rules where a reading of the original or of the data decides."""

from __future__ import annotations

import pytest

from mllm_eval.catalog import load_benchmark
from mllm_eval.data.prompts import read_record
from mllm_eval.score import load_scorer


@pytest.mark.parametrize(
    ("said", "gold", "score"),
    [
        ("University   of Californla", "University of California", 1 - 1 / 26),
        ("a  b", "a c", 1 - 1 / 4),
        ("straße 1", "strasse 2", 1 - 3 / 9),
        ("", "", 1.0),
        ("abcd", "ab", 0.5),
        ("abcde", "ab", 0.0),
    ],
)
def test_anls_divides_by_the_texts_as_they_stand(said: str, gold: str, score: float) -> None:
    rules = load_scorer(load_benchmark("docvqa")).rules
    assert rules["cambrian"]({"questionId": "1", "answers": [gold]}, said)[0] == pytest.approx(score)


def test_a_text_that_two_choices_share_is_right_under_the_robust_rules() -> None:
    robust = load_scorer(load_benchmark("mathvista")).rules["robust"]
    record = {"question_type": "multi_choice", "answer": "50", "choices": ["15", "100", "50", "50"]}
    assert [robust(record, said)[:2] for said in ("50", "The answer is 50.", "C", "100", "")] == [
        (1.0, "50"),
        (1.0, "50"),
        (1.0, "C"),
        (0.0, "B"),
        (0.0, None),
    ]


def test_prompts_of_rows_that_leave_out_an_option_or_have_one_too_many() -> None:
    mmbench = load_benchmark("mmbench_en")
    record = {"index": 1, "question": "Q?", "hint": "nan", "A": "x", "B": "nan", "C": "y", "D": "nan"}
    assert "Options:\nA. x\nC. y\n" in read_record(mmbench, record, "here").prompt
    mmvp = load_benchmark("mmvp")
    odd = read_record(mmvp, {"question": "Q?", "options": "(a) X (b) Y (b) (a) Z"}, "here").prompt
    assert odd.startswith("Q? Options:\nA. X\nB. Y\nA. Z\n")

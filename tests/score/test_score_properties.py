"""Parsers under anything: no crash, no score outside [0, 1], and what must hold for any answer."""

from __future__ import annotations

import math
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mllm_eval.catalog import load_benchmark
from mllm_eval.catalog.benchmark import module_of
from mllm_eval.data.samples import Sample
from mllm_eval.metrics import choices, plain, quantities
from mllm_eval.score import load_scorer
from mllm_eval.score.scoring import score_one

settings.register_profile("scorers", deadline=None, max_examples=80)
settings.load_profile("scorers")

m4c = module_of(load_benchmark("textvqa"), "m4c")
docvqa = module_of(load_benchmark("docvqa"), "docvqa")

OPTIONS = ["bear", "dog", "cat", "apple tree"]
RECORDS = {
    "mme": {"question_id": "1", "category": "count", "answer": "Yes"},
    "mmbench_en": {**dict(zip("ABCD", OPTIONS, strict=True)), "index": 1, "answer": "B", "category": "c"},
    "gqa": {"answer": "fire truck"},
    "seed": {"question_type_id": 1, "answer": "B", **{f"choice_{x}": o for x, o in zip("abcd", OPTIONS, strict=True)}},
    "scienceqa": {"choices": OPTIONS, "answer": 1, "grade": "g"},
    "mmmu": {"id": "validation_Art_1", "question_type": "open", "options": "[]", "answer": "['24/7', '3.429']"},
    "mathvista": {"question_type": "free_form", "answer": "1.2", "choices": None},
    "ai2d": {"options": OPTIONS, "answer": "1"},
    "chartqa": {"answer": "23%", "type": "human_test"},
    "ocrbench": {"question_type": "Digit String Recognition", "answer": ["57", "x_{2}"]},
    "textvqa": {"answers": ["a", "the dog", "2.", "u.s.a.", "don't", "", "x", "x", "x", "x"]},
    "docvqa": {"questionId": "1", "answers": ["University of California", ""]},
    "mmvp": {"index": 1, "options": "(a) Open (b) Closed", "answer": "(a)"},
    "realworldqa": {"answer": "2", "question": "A. x"},
    "cvbench_2d": {"choices": OPTIONS, "answer": "(B)", "source": "COCO"},
    "cvbench_3d": {"choices": OPTIONS[:2], "answer": "(B)"},
}
pieces = st.sampled_from(
    [
        *("answer is", "answer:", "Answer is:", "A", "B", "(b)", "C.", "not", "or", "dog", "1,000", "50%", "-3.5"),
        *("1/2", "inf", "1e999", "yes", "No", "**", "\\boxed{B}", "$", "\n", " ", ".", "\u200b", "\uff22", "\u00b2"),
        *("_", "/", "'s", "\u2460", "7" * 5000, "1/" + "7" * 5000),
    ]
)
answers = st.one_of(st.text(max_size=60), st.lists(pieces, max_size=9).map(" ".join), st.lists(pieces).map("".join))


@pytest.mark.slow
@pytest.mark.parametrize("name", RECORDS)
@pytest.mark.parametrize("rules", ["cambrian", "robust"])
def test_any_answer_has_a_score(name: str, rules: str) -> None:
    benchmark = load_benchmark(name)
    scorer = load_scorer(benchmark)
    sample = Sample(name, "s", (), "", "", "g", "g", RECORDS[name])

    @given(answers)
    def scored(text: str) -> None:
        score = score_one(benchmark, scorer, rules, sample, text)
        assert score.score is not None and 0.0 <= score.score <= 1.0
        assert score.parsed is None or score.parsed.encode()
        if rules == "robust":
            assert "crashes" not in score.note

    scored()


@given(st.sampled_from("ABCD"), st.sampled_from(["{}", "({})", "{}.", "**{}**", "Answer: {}", "The answer is: ({})."]))
def test_a_letter_is_read_however_it_is_dressed(letter: str, dress: str) -> None:
    assert choices.choose(plain.plain(dress.format(letter)), OPTIONS) == letter


@given(st.integers(0, 3), st.sampled_from(["{}", "{}.", "It is the {}.", "the answer is {}", "a {}"]))
def test_an_options_text_is_read_as_its_letter(index: int, dress: str) -> None:
    assert choices.choose(plain.plain(dress.format(OPTIONS[index])), OPTIONS) == "ABCD"[index]


@given(st.lists(st.sampled_from("ABCD"), min_size=2, max_size=4, unique=True), st.sampled_from([" or ", ", ", " and "]))
def test_several_letters_are_no_answer(letters: list[str], joint: str) -> None:
    assert choices.choose(joint.join(letters), OPTIONS) is None


@given(st.text(alphabet=string.ascii_lowercase, min_size=2, max_size=12))
def test_a_word_is_never_the_letter_it_starts_with(word: str) -> None:
    said = choices.choose(word, OPTIONS)
    assert said is None or OPTIONS["ABCD".index(said)] == word


@given(st.integers(-(10**9), 10**9), st.sampled_from(["{:,}", "${:,}", "{}%", "{} dollars", "about {}.", "{}.0"]))
def test_a_number_is_read_with_its_signs(value: int, dress: str) -> None:
    assert quantities.number(plain.plain(dress.format(value))) == value


@given(st.floats(), st.floats(allow_nan=False, allow_infinity=False))
def test_closeness_is_measured_from_the_gold_and_never_infinite(value: float, gold: float) -> None:
    near = quantities.close(value, gold)
    assert not near or (math.isfinite(value) and abs(value - gold) <= abs(gold) * 0.0500001 + 1e-9)
    assert quantities.close(gold, gold)


@given(st.text(max_size=20))
def test_a_mended_normal_form_is_its_own(text: str) -> None:
    once = m4c.normal(text, mended=True)
    assert m4c.normal(once, mended=True).split() == m4c.normal(m4c.normal(once, mended=True), mended=True).split()


def slow_distance(one: str, two: str) -> int:
    before = list(range(len(two) + 1))
    for i, a in enumerate(one, 1):
        row = [i]
        for j, b in enumerate(two, 1):
            row.append(min(before[j - 1] + (a != b), row[j - 1] + 1, before[j] + 1))
        before = row
    return before[-1]


@given(st.text("abc", min_size=1, max_size=12), st.text("abc", min_size=1, max_size=12))
def test_distance_in_bits_is_the_textbooks(one: str, two: str) -> None:
    share = 1 - slow_distance(one, two) / max(len(one), len(two))
    assert docvqa.anls(one, two) == (pytest.approx(share) if share >= 0.5 else 0)


@given(st.text(max_size=12), st.text(max_size=12))
def test_anls_is_symmetric_and_one_for_equals(one: str, two: str) -> None:
    assert docvqa.anls(one, two) == docvqa.anls(two, one)
    assert docvqa.anls(one, one) == 1.0
    assert docvqa.anls(one, two) == 0.0 or docvqa.anls(one, two) >= 0.5


def test_the_loaded_scorers_offer_both_rule_sets() -> None:
    for name in RECORDS:
        assert set(load_scorer(load_benchmark(name)).rules) == {"cambrian", "robust"} == set(load_benchmark(name).rules)

"""What a line of someone's file says of its question, held against the sample: what agrees and what must not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from mllm_eval.catalog import load_benchmark
from mllm_eval.data.samples import Sample
from mllm_eval.errors import UserError
from mllm_eval.score.agreement import Said, disagreement, known, number_or_text
from mllm_eval.score.answerfiles import LAYOUTS, json_lines

PROMPT = "Which is it?\nA. red\nB. 14\nC. two words\nAnswer with the letter."


def sample(prompt: str = PROMPT, target: str = "B", **record: Any) -> Sample:
    return Sample("own", "s", (), prompt, target, "g", "g", {"question": prompt.split("\n")[0], **record})


def differ(said: Said, one: Sample, settings: Mapping[str, Any] | None = None) -> str | None:
    found = disagreement(said, known(one, settings or {}))
    return found and found[0]


def test_the_benchmarks_own_id_must_be_the_same() -> None:
    one = sample(number=7)
    assert differ(Said(own_id="7"), one, {"id": "number"}) is None
    assert differ(Said(own_id="8"), one, {"id": "number"}) == "id"
    # What one of the two leaves open agrees.
    assert differ(Said(own_id="8"), one) is None and differ(Said(), one, {"id": "number"}) is None


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("Which is it?", None), ("WHICH is it", None), ("<image 1> Which is it?", None),
        ("Hint: look. Which is it? Say a letter.", None), (PROMPT, None),
        ("Where is it?", "question"), ("Why", "question"), ("?", None), ("it", None), ("no", None),
        ("", None), (None, None),
    ],
)  # fmt: skip
def test_a_question_is_the_same_with_more_around_it(said: str | None, found: str | None) -> None:
    assert differ(Said(question=said), sample()) == found


def test_a_prompt_may_leave_out_all_but_the_first_sentence_if_that_says_enough() -> None:
    long, short = "Is there a dog in this image? Please answer yes or no.", "Why? Because of the dog in this image."
    assert differ(Said(prompt="Is there a dog in this image? One word."), sample(long)) is None
    assert differ(Said(prompt="Is there a cat in this image? One word."), sample(long)) == "prompt"
    assert differ(Said(prompt="Why? Nobody knows."), sample(short)) == "prompt"
    assert differ(Said(prompt=f"USER: {short} ASSISTANT:"), sample(short)) is None


@pytest.mark.parametrize(("first", "enough"), [("abcd efgh ijkl", True), ("abcd efgh ijk", False)])
def test_a_first_sentence_of_twelve_letters_says_enough(first: str, enough: bool) -> None:
    said = Said(prompt=f"{first}? One word.")
    assert differ(said, sample(f"{first}? Please answer.")) == (None if enough else "prompt")


@pytest.mark.parametrize(
    "gold", ["B", "b", "1", "14", "14.0", 14, ["x", "14"], "['x', 'B']", None, "nan", float("nan")]
)
def test_a_gold_may_be_the_letter_the_place_the_text_or_one_of_a_list(gold: Any) -> None:
    assert differ(Said(golds=(gold,)), sample()) is None


@pytest.mark.parametrize("gold", ["A", "0", "red", "14.5", "two words", "['A', 'x']", "none"])
def test_another_gold_is_told(gold: Any) -> None:
    assert differ(Said(golds=(gold,)), sample()) == "gold answer"


def test_a_number_that_is_an_options_text_is_not_a_place() -> None:
    one = sample("How many?\nA. 1\nB. 2\nC. 3", "B")
    assert differ(Said(golds=("2",)), one) is None and differ(Said(golds=("1",)), one) == "gold answer"
    # A sample whose own gold is a place, as AI2D's are.
    placed = sample("How many?\nA. x\nB. y", "1")
    assert [differ(Said(golds=(gold,)), placed) for gold in ("B", "y", "A")] == [None, None, "gold answer"]


def test_numbers_are_their_values_and_a_hidden_gold_agrees_with_any() -> None:
    assert differ(Said(golds=("1,000",)), sample("How many?", "1000.0")) is None
    assert differ(Said(golds=("-5",)), sample("How many?", "5")) == "gold answer"
    assert differ(Said(golds=("7",)), sample("How many?", "")) is None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (7, "7"), ("007", "7"), ("7.0", "7"), (7.0, "7"), (" 7 ", "7"), ("7.5", "7.5"), ("a7", "a7"), ("-7", "-7"),
        ("0" * 18 + "1234567890123456789", "0" * 18 + "1234567890123456789"), ("\u0667", "\u0667"),
        ("0" + "1" * 17, "1" * 17), ("0" + "1" * 18, "0" + "1" * 18),
    ],
)  # fmt: skip
def test_an_id_is_a_whole_number_or_text(value: Any, text: str) -> None:
    assert number_or_text(value) == text


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_a_byte_order_mark_is_of_the_first_line_alone(tmp_path: Path) -> None:
    (where, found), _ = json_lines(written(tmp_path / "a.jsonl", '\ufeff{"id": 1}\n\n{"id": 2}\n'))
    assert (where, found) == (f"{tmp_path / 'a.jsonl'}:1", {"id": 1})
    with pytest.raises(UserError, match="jsonl:2: not valid JSON"):
        list(json_lines(written(tmp_path / "b.jsonl", '{"id": 1}\n\ufeff{"id": 2}\n')))


@pytest.mark.parametrize("number", ["true", "null", '"x"', "1.5", '"-1"', "[]"])
def test_a_doc_id_that_is_no_whole_number_is_told(number: str, tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", f'{{"doc_id": {number}, "resps": [["A"]]}}\n')
    with pytest.raises(UserError, match="jsonl:1: field 'doc_id' is missing or no number"):
        LAYOUTS["lmms_eval"](path, load_benchmark("ai2d"))


def test_of_several_responses_the_first_is_the_answer(tmp_path: Path) -> None:
    path = written(
        tmp_path / "a.jsonl", '{"doc_id": "3.0", "resps": [["A", "B"], ["C"]]}\n{"doc_id": 4, "resps": []}\n'
    )
    first, none = LAYOUTS["lmms_eval"](path, load_benchmark("ai2d"))
    assert (first.id, first.prediction) == ("3", "A") and none.prediction is None


def test_one_target_for_all_rows_that_names_a_column_says_nothing(tmp_path: Path) -> None:
    one = '{"doc_id": %d, "target": "answer", "filtered_resps": "A"}\n'
    lines = LAYOUTS["lmms_eval"](written(tmp_path / "a.jsonl", one % 0 + one % 1), load_benchmark("ai2d"))
    assert [line.says.golds for line in lines] == [(None,), (None,)]
    # Of a single row it may be the gold.
    (line,) = LAYOUTS["lmms_eval"](written(tmp_path / "b.jsonl", one % 0), load_benchmark("ai2d"))
    assert line.says.golds == ("answer", None)

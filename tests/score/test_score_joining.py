"""Files of other harnesses: each answer reaches its own question, or the file is refused with line and both texts."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import parquet_rows
import pytest
from summaries import score_file

from mllm_eval.data.snapshots import load_samples
from mllm_eval.errors import UserError
from mllm_eval.score import files

COLOURS = ["red", "green", "blue", "white"]
QUESTIONS = ["Which colour is the tallest bar?", "How many bars are there?"]


def chart(number: int) -> dict[str, Any]:
    """A row of ChartQA: questions recur, golds differ."""
    gold = COLOURS[number // 2 % 4] if number % 2 == 0 else str(number)
    return {"type": "human_test", "question": QUESTIONS[number % 2], "answer": gold, "image": parquet_rows.png(number)}


CHARTS = [chart(number) for number in range(12)]
GOLDS = [row["answer"] for row in CHARTS]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, list[dict[str, Any]] | None], None]:
    monkeypatch.setenv("MLLM_EVAL_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(files, "load_benchmark", parquet_rows.unpinned)

    def made(name: str, rows: list[dict[str, Any]] | None = None) -> None:
        parquet_rows.write_mini(tmp_path / "data", parquet_rows.unpinned(name), rows or parquet_rows.rows_of(name))

    return made


@pytest.fixture
def charts(data: Callable[[str, list[dict[str, Any]] | None], None]) -> None:
    data("chartqa", CHARTS)


def lines(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def logged(number: int, of: int | None = None) -> dict[str, Any]:
    """A line of an older lmms-eval: number `number`, but what it says is of the row `of`."""
    row = CHARTS[number if of is None else of]
    doc = {"type": row["type"], "question": row["question"], "answer": row["answer"]}
    said = [row["answer"]]
    return {"doc_id": number, "target": row["answer"], "doc": doc, "resps": [said], "filtered_resps": said}


def newer(number: int, of: int | None = None) -> dict[str, Any]:
    """A line of a newer lmms-eval, which keeps the prompt and not the row."""
    row = CHARTS[number if of is None else of]
    asked = row["question"] + "\nAnswer the question with a single word."
    return {"doc_id": number, "target": row["answer"], "filtered_resps": row["answer"], "input": asked}


def asked_by_cambrian(number: int, of: int | None = None) -> dict[str, Any]:
    row = CHARTS[number if of is None else of]
    prompt = (
        f"A chat. USER: <image>\n{row['question']}\nAnswer the question using a single number or phrase. ASSISTANT:"
    )
    return {"question_id": number, "prompt": prompt, "answer": row["answer"], "gt_answer": row["answer"]}


HARNESSES = {"lmms_eval": [logged, newer], "cambrian": [asked_by_cambrian]}
LINES = [(layout, line) for layout, kinds in HARNESSES.items() for line in kinds]
WHOLE = list(range(12))


@pytest.mark.parametrize(("layout", "line"), LINES)
def test_a_whole_file_is_joined_in_any_order(layout: str, line: Any, charts: None, tmp_path: Path) -> None:
    for order in (WHOLE, WHOLE[::-1], [*WHOLE[5:], *WHOLE[:5]]):
        path = lines(tmp_path / "a.jsonl", [line(number) for number in order])
        assert score_file("chartqa", path, format_=layout).value == 100.0


@pytest.mark.parametrize(("layout", "line"), LINES)
@pytest.mark.parametrize(
    ("numbers", "of", "said"),
    [
        ([0, *WHOLE[:-1]], None, r"jsonl:2: id '0' occurs twice \(first at .*jsonl:1\)"),
        ([*WHOLE, 5], None, "jsonl:13: id '5' occurs twice"),
        (WHOLE[::-1], WHOLE, r"jsonl:1: its .* is not that of sample '11': .*tallest bar.* there, .*How many"),
        ([*WHOLE[:-1], 99], WHOLE, r"jsonl:12: .*'99' is no sample's id"),
        # Two that swapped their numbers, with one question: only the gold tells.
        ([2, 1, 0, *WHOLE[3:]], WHOLE, "jsonl:1: its gold answer is not that of sample '2': 'red' there, 'green' here"),
        ([number + 1 for number in WHOLE], WHOLE, r"jsonl:\d+: .*'12' is no sample's id"),
        (WHOLE[:-1], None, r"1 of 12 samples have no answer \(first: '11'\)"),
    ],
)
def test_files_with_a_fault_are_refused(
    layout: str, line: Any, numbers: list[int], of: list[int] | None, said: str, charts: None, tmp_path: Path
) -> None:
    rows = [line(number, None if of is None else of[at]) for at, number in enumerate(numbers)]
    with pytest.raises(UserError, match=said) as error:
        score_file("chartqa", lines(tmp_path / "a.jsonl", rows), format_=layout)
    assert "\n" not in str(error.value)


def test_two_numbers_of_one_row_are_refused(charts: None, tmp_path: Path) -> None:
    twice = [*(asked_by_cambrian(number) for number in WHOLE), {**asked_by_cambrian(3), "question_id": "03"}]
    with pytest.raises(UserError, match="'question_id' mixes ids with numbers of rows, or counts beyond"):
        score_file("chartqa", lines(tmp_path / "a.jsonl", twice), format_="cambrian")


def test_a_part_of_a_file_is_joined_where_it_may_be_partial(charts: None, tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", [logged(number) for number in (3, 7, 4)])
    summary = score_file("chartqa", path, format_="lmms_eval", partial=True)
    assert (summary.n, summary.value, summary.partial) == (3, 100.0, True)


def sheet(path: Path, index: Sequence[Any], of: Sequence[int], **columns: Sequence[Any]) -> Path:
    rows = [CHARTS[number] for number in of]
    said = {"question": [row["question"] for row in rows], "answer": [row["answer"] for row in rows]}
    table = pd.DataFrame({"index": index, **said, "prediction": said["answer"], **columns})
    if path.suffix == ".xlsx":
        table.to_excel(path, index=False)
    else:
        table.to_csv(path, index=False, sep="\t" if path.suffix == ".tsv" else ",")
    return path


def test_a_few_questions_that_agree_from_one_on_are_no_evidence_of_counting_from_one(
    charts: None, tmp_path: Path
) -> None:
    few = sheet(tmp_path / "few.tsv", [3, 4, 5], [2, 3, 4])
    with pytest.raises(UserError, match="is not that of sample '3'"):
        score_file("chartqa", few, format_="vlmevalkit", partial=True)
    ten = sheet(tmp_path / "ten.tsv", range(2, 12), range(1, 11))
    assert score_file("chartqa", ten, format_="vlmevalkit", partial=True).value == 100.0


@pytest.mark.parametrize("kind", ["xlsx", "tsv", "csv"])
@pytest.mark.parametrize(
    ("index", "of", "partial"),
    [
        (WHOLE, WHOLE, False),
        (WHOLE[::-1], WHOLE[::-1], False),
        ([number + 1 for number in WHOLE], WHOLE, False),
        # Numbered from 1, and stopped before the end: the numbers alone would shift every answer by one.
        ([number + 1 for number in WHOLE[:-1]], WHOLE[:-1], True),
        ([float(number) for number in WHOLE], WHOLE, False),
    ],
)
def test_sheets_are_joined_by_what_their_numbers_mean(
    kind: str, index: list[Any], of: list[int], partial: bool, charts: None, tmp_path: Path
) -> None:
    path = sheet(tmp_path / f"a.{kind}", index, of)
    assert score_file("chartqa", path, format_="vlmevalkit", partial=partial).value == 100.0


def test_a_sheet_numbered_anew_in_another_order_is_refused(charts: None, tmp_path: Path) -> None:
    order = sorted(WHOLE, key=lambda number: str(CHARTS[number]["question"]))
    said = r"xlsx:2: its question is not that of sample '0': 'How many bars .*' there, 'Which colour .*' here"
    with pytest.raises(UserError, match=said):
        score_file("chartqa", sheet(tmp_path / "a.xlsx", WHOLE, order), format_="vlmevalkit")
    # One question for all: the golds are what is left to see it by.
    blank = sheet(tmp_path / "b.xlsx", WHOLE, WHOLE[::-1], question=[None] * 12)
    with pytest.raises(UserError, match=r"xlsx:2: its gold answer is not that of sample '0': '11' there, 'red' here"):
        score_file("chartqa", blank, format_="vlmevalkit")


def test_what_xlsx_writes_for_a_carriage_return_is_one(charts: None, tmp_path: Path) -> None:
    asked = [row["question"].replace(" ", "_x000D_\n", 1) for row in CHARTS]
    path = sheet(tmp_path / "a.xlsx", WHOLE, WHOLE, question=asked, prediction=[f"{gold}_x000D_" for gold in GOLDS])
    assert score_file("chartqa", path, rules="robust", format_="vlmevalkit").value == 100.0


def test_lines_of_ones_own_are_held_against_what_they_say(charts: None, tmp_path: Path) -> None:
    own = [{"id": str(n), "prediction": GOLDS[n], "question": CHARTS[n]["question"], "target": GOLDS[n]} for n in WHOLE]
    assert score_file("chartqa", lines(tmp_path / "a.jsonl", own)).value == 100.0
    shifted = [{**line, "id": str((n + 2) % 12)} for n, line in enumerate(own)]
    with pytest.raises(UserError, match=r"jsonl:1: its gold answer is not that of sample '2': 'red' there, 'green'"):
        score_file("chartqa", lines(tmp_path / "a.jsonl", shifted))


@pytest.mark.parametrize("empty", ["", " \n", None, float("nan"), "[LMMS_EVAL_REQUEST_FAILED after 5 retries] busy"])
def test_what_a_crash_left_is_failed_and_counted(empty: Any, charts: None, tmp_path: Path) -> None:
    rows = [{**logged(n), "filtered_resps": [GOLDS[n] if n % 2 else empty]} for n in WHOLE]
    summary = score_file("chartqa", lines(tmp_path / "a.jsonl", rows), format_="lmms_eval")
    assert (summary.n, summary.n_failed, summary.value) == (12, 6, 100.0)
    if not (isinstance(empty, str) and empty.startswith("[")):
        own = [{"id": str(n), "prediction": GOLDS[n] if n % 2 else empty} for n in WHOLE]
        assert score_file("chartqa", lines(tmp_path / "b.jsonl", own)).n_failed == 6


def test_an_empty_text_that_brings_its_record_asks_what_the_rule_makes_of_it(tmp_path: Path) -> None:
    line = {"id": "a", "record": {"answer": "14", "type": None}, "prediction": ""}
    summary = score_file("chartqa", lines(tmp_path / "a.jsonl", [line]))
    assert (summary.n_failed, summary.value) == (0, 0.0)


def _letters(options: Sequence[str]) -> dict[str, str]:
    return dict(zip("ABCD", options, strict=False))


# What each harness writes for a right answer to each row of the synthetic snapshots: none may be refused.
EXPORTS: dict[str, list[tuple[str, list[dict[str, Any]]]]] = {
    "mme": [
        # lmms-eval takes the last sentence away before it adds its own.
        ("lmms_eval", [
            {"doc_id": n, "target": gold, "filtered_resps": gold,
             "input": "Is there a dog in this image?\nAnswer the question using a single word or phrase."}
            for n, gold in enumerate(["Yes", "No", "Yes", "No"])]),
    ],
    "ai2d": [
        ("lmms_eval", [{"doc_id": n, "target": "C", "filtered_resps": "C",
                        "input": "Which?\nA. red\nB. green\nC. blue\nD. white"} for n in range(2)]),
        ("lmms_eval", [{"doc_id": n, "target": "blue", "filtered_resps": "C"} for n in range(2)]),
        ("cambrian", [{"question_id": n, "answer": "C", "gt_answer": "2", "text_answer": "blue"} for n in range(2)]),
        ("vlmevalkit", [{"index": n, "question": "Which?", "answer": "C", **_letters(COLOURS), "prediction": "C"}
                        for n in range(2)]),
    ],
    "textvqa": [
        # A task that names a column its data lacks has the name as the target of every row.
        ("lmms_eval", [{"doc_id": n, "target": "answer", "filtered_resps": "dakota", "input": "brand?"}
                       for n in range(2)]),
        ("cambrian", [{"question_id": n, "answer": "dakota", "gt_answer": ["dakota"] * 10} for n in range(2)]),
        ("vlmevalkit", [{"index": 34602 + n, "question": "Brand?", "answer": str(["dakota"] * 10),
                         "prediction": "dakota"} for n in range(2)]),
    ],
    "mmmu": [
        ("vlmevalkit", [
            {"index": 151 + n, "id": id_, "question": question, "answer": gold, "prediction": gold}
            for n, (id_, question, gold) in enumerate([
                ("validation_Art_Theory_1", "<image 1> What of <image 2>?", "B"),
                ("validation_Art_1", "<image 1> How many?", "5.0")])]),
        ("lmms_eval", [
            {"doc_id": 0, "target": "B", "filtered_resps": "B", "input": "<image> What of <image>?\n(A) $6"},
            {"doc_id": 1, "target": "5", "filtered_resps": "5", "input": "<image> How many?"}]),
    ],
    # Three rows, the second a video: rows of the data set, or questions asked.
    "seed": [
        ("lmms_eval", [{"doc_id": n, "target": "A", "filtered_resps": "A", "input": "What?\nA. aa"} for n in range(3)]),
        ("cambrian", [{"question_id": n, "answer": "A", "gt_answer": "A"} for n in (0, 2)]),
        ("vlmevalkit", [{"index": n, "question": "What?", "answer": "A", "prediction": "A"} for n in (0, 1)]),
    ],
    "scienceqa": [
        ("lmms_eval", [{"doc_id": n, "target": gold, "filtered_resps": gold, "input": f"Context: Look.\n{text}"}
                       for n, (gold, text) in enumerate([("B", "Which?"), ("A", "And?")])]),
    ],
    "mathvista": [
        ("cambrian", [{"question_id": 0, "answer": "B", "gt_answer": "b"},
                      {"question_id": 1, "answer": "5", "gt_answer": "5"}]),
    ],
    "mmbench_en": [
        ("cambrian", [{"index": 7, "question": "Which?", "prediction": "A", "gt_answer": "A"},
                      {"index": 1_000_007, "question": "Which?", "prediction": "B", "gt_answer": "B"}]),
        ("vlmevalkit", [{"index": 1_000_007, "question": "Which?", "A": "water", "answer": "B", "prediction": "B"},
                        {"index": 7, "question": "Which?", "A": "ice", "answer": "A", "prediction": "A"}]),
    ],
    "ocrbench": [
        ("cambrian", [{"question_id": 0, "prompt": "A", "answer": "57", "gt_answer": ["57"]}]),
        ("vlmevalkit", [{"index": 1, "question": "text?", "answer": "['57']", "prediction": 57.0}]),
    ],
    "docvqa": [
        ("cambrian", [{"questionId": "57", "prompt": "USER: <image>\ndate?\nGive the short answer", "answer": "1998"}]),
        ("lmms_eval", [{"doc_id": 0, "target": "['1998']", "filtered_resps": "1998"}]),
    ],
    "mmvp": [
        ("lmms_eval", [{"doc_id": n, "target": gold, "filtered_resps": said,
                        "doc": {"lndex": n + 1, "Question": "Open?", "Correct Answer": gold}}
                       for n, (gold, said) in enumerate([("(a)", "A"), ("(b)", "B")])]),
        ("vlmevalkit", [{"index": n, "question": "Open?", "A": "Open", "B": "Closed", "answer": gold,
                         "prediction": gold} for n, gold in enumerate("AB")]),
    ],
    "cvbench_2d": [
        ("cambrian", [{"questionId": n, "answer": "A", "gt_answer": "(A)", "options": "['1', '2']"} for n in range(2)]),
        ("vlmevalkit", [{"index": n, "question": "How many?", "answer": "A", "prediction": "A"} for n in range(2)]),
    ],
}  # fmt: skip
CASES = [(name, number) for name, exports in EXPORTS.items() for number in range(len(exports))]


@pytest.mark.parametrize(("name", "number"), CASES)
def test_what_harnesses_really_write_is_not_refused(
    name: str, number: int, data: Callable[[str, list[dict[str, Any]] | None], None], tmp_path: Path
) -> None:
    data(name, None)
    layout, rows = EXPORTS[name][number]
    path = tmp_path / ("a.xlsx" if layout == "vlmevalkit" else "a.jsonl")
    if layout == "vlmevalkit":
        pd.DataFrame(rows).to_excel(path, index=False)
    else:
        lines(path, rows)
    summary = score_file(name, path, rules="robust", format_=layout)
    assert summary.n_failed == 0 and summary.n == len(load_samples(parquet_rows.unpinned(name), "mini"))
    assert summary.reported and summary.n_unparsed == 0
    scores = tmp_path / "s.jsonl"
    score_file(name, path, rules="robust", format_=layout, out=scores)
    assert {json.loads(line)["score"] for line in scores.read_text().splitlines()} == {1.0}

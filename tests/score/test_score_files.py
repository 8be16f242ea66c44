"""Files of answers: what is accepted, what is refused, and what the refusal says."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import parquet_rows
import pytest
from summaries import score_file

from mllm_eval.catalog import load_benchmark
from mllm_eval.errors import UserError
from mllm_eval.score import files, sheets

GOLD = {"answer": "14", "type": "human_test"}
Writer = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Writer:
    def written(*lines: dict[str, Any] | str | bytes) -> Path:
        path = tmp_path / "answers.jsonl"
        texts = [json.dumps(line) if isinstance(line, dict) else line for line in lines]
        path.write_bytes(b"".join((t if isinstance(t, bytes) else t.encode()) + b"\n" for t in texts))
        return path

    return written


@pytest.fixture
def mini(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    monkeypatch.setenv("MLLM_EVAL_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(files, "load_benchmark", parquet_rows.unpinned)

    def made(name: str) -> None:
        parquet_rows.write_mini(tmp_path / "data", parquet_rows.unpinned(name), parquet_rows.rows_of(name))

    return made


def line(id_: str, prediction: Any, **record: Any) -> dict[str, Any]:
    return {"id": id_, "record": {**GOLD, **record}, "prediction": prediction}


def mme(id_: str, image: str, gold: str, prediction: str | None) -> dict[str, Any]:
    record = {"question_id": image, "category": "existence", "question": "Q?", "answer": gold}
    return {"id": id_, "record": record, "prediction": prediction}


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([line("a", "14"), line("a", "15")], r"jsonl:2: id 'a' occurs twice \(first at .*jsonl:1\)"),
        ([line("a", "14"), '{"id": "b", '], r"jsonl:2: not valid JSON"),
        ([line("a", "14"), '["b"]'], r"jsonl:2: expected an object, found list"),
        ([line("a", "14"), b"\xff\xfe"], "jsonl:2: not UTF-8"),
        (['{"id": "a", "prediction": "1", "prediction": "2"}'], "jsonl:1: .*field 'prediction' is there twice"),
        (['{"id": "a", "record": {"answer": "1", "answer": "2"}, "prediction": "1"}'], "'answer' is there twice"),
        ([{**line("a", "14"), "id": ""}], "jsonl:1: field 'id' is ''; an id is text"),
        (['{"id": "\\ud800", "prediction": "1"}'], "jsonl:1: field 'id' is .*can be written"),
        (['{"id": "a", "prediction": Infinity}'], "jsonl:1: field 'prediction' is float, expected a string"),
        ([{"id": "a", "record": GOLD, "predictions": "14"}], "jsonl:1: field 'prediction' is missing.*predictions"),
        ([{"record": GOLD, "prediction": "14"}], "jsonl:1: field 'id' is missing"),
        ([line("a", 14)], "jsonl:1: field 'prediction' is int, expected a string"),
        ([line("a", ["14"])], "jsonl:1: field 'prediction' is list, expected a string"),
        ([{**line("a", "14"), "id": 1.5}], "jsonl:1: field 'id' is float"),
        ([{**line("a", "14"), "record": "14"}], "jsonl:1: field 'record' is str"),
        ([{"id": "a", "record": {"type": "x"}, "prediction": "1"}], "jsonl:1: the record has no field 'answer'"),
        ([line("a", "1", answer=14)], "jsonl:1: field 'answer' of the record is int, expected string"),
        ([line("a", "1"), {"id": "b", "prediction": "1"}], "jsonl:2: this line brings no record"),
        ([], "no answers in it"),
    ],
)
def test_bad_lines_are_named(lines: list[Any], said: str, write: Writer) -> None:
    with pytest.raises(UserError, match=said) as error:
        score_file("chartqa", write(*lines))
    assert "\n" not in str(error.value)


def test_names_that_do_not_exist_give_the_nearest(write: Writer) -> None:
    path = write(line("a", "14"))
    with pytest.raises(UserError, match="chartqa"):
        score_file("chart_qa", path)
    with pytest.raises(UserError, match="robust"):
        score_file("chartqa", path, rules="robusst")
    with pytest.raises(UserError, match="lmms_eval"):
        score_file("chartqa", path, format_="lmms-eval")
    with pytest.raises(UserError, match=r"gone\.jsonl"):
        score_file("chartqa", path.parent / "gone.jsonl")


def test_a_prediction_that_is_not_there_is_failed_not_wrong(
    write: Writer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(
        line("a", "14"), line("b", None), '{"id": "c", "record": {"answer": "1", "type": null}, "prediction": NaN}'
    )
    summary = score_file("chartqa", path, out=tmp_path / "scores.jsonl", as_json=True)
    assert (summary.n, summary.n_failed, summary.value) == (3, 2, 100.0)
    printed = json.loads(capsys.readouterr().out)
    assert {"benchmark", "rules", "n", "n_failed", "n_unparsed", "n_empty", "value", "reported"} <= set(printed)
    assert (printed["value"], printed["reported"]["total"]) == (100.0, 1.0)
    scores = [json.loads(text) for text in (tmp_path / "scores.jsonl").read_text().splitlines()]
    assert [set(score) for score in scores] == [{"id", "score", "parsed", "note"}] * 3
    assert [score["score"] for score in scores] == [1.0, None, None]
    assert scores[1]["note"] == scores[2]["note"] == "failed: no prediction"


def test_empty_texts_that_are_scored_are_counted(write: Writer, capsys: pytest.CaptureFixture[str]) -> None:
    summary = score_file("chartqa", write(line("a", "14"), line("b", " "), line("c", ""), line("d", None)))
    assert (summary.n, summary.n_failed, summary.n_empty) == (4, 1, 2)
    assert f"unparsed {summary.n_unparsed}, empty 2, chance" in capsys.readouterr().out


def test_rules_that_do_not_exist_are_told_before_a_file_is_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"chartqa has no rules 'cambrain'\. Did you mean 'cambrian'"):
        score_file("chartqa", tmp_path / "gone.jsonl", "cambrain")


@pytest.mark.parametrize("others", [0, 30])
def test_one_answer_to_nearly_everything_is_told(
    others: int, write: Writer, capsys: pytest.CaptureFixture[str]
) -> None:
    same = [line(f"same{number}", "14", answer=str(number + 100)) for number in range(30)]
    right = [line(f"right{number}", str(number + 200), answer=str(number + 200)) for number in range(others)]
    score_file("chartqa", write(*same, *right))
    said = capsys.readouterr().out
    assert ("one answer makes up most: '14' in 100%\n" in said) == (not others)


def test_an_image_without_its_second_question_is_refused_unless_partial(
    write: Writer, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(mme("1", "a.jpg", "Yes", "Yes"), mme("2", "a.jpg", "No", "No"), mme("3", "b.jpg", "Yes", "Yes"))
    with pytest.raises(UserError, match=r"group 'existence/b\.jpg' has 1 answers where 2 make it whole"):
        score_file("mme", path)
    summary = score_file("mme", path, partial=True)
    # The lone question of b.jpg counts nowhere: neither in acc nor in acc+.
    assert (summary.partial, summary.value) == (True, 200.0) and " (partial)" in capsys.readouterr().out
    score_file("mme", write(mme("1", "a.jpg", "Yes", "Yes"), mme("2", "a.jpg", "No", "No")))
    assert "partial" not in capsys.readouterr().out


def test_a_question_answered_twice_is_refused(write: Writer) -> None:
    rows = [mme("1", "a.jpg", "Yes", "Yes"), mme("2", "a.jpg", "No", "No"), mme("3", "a.jpg", "No", "Yes")]
    with pytest.raises(UserError, match="has 3 answers where 2"):
        score_file("mme", write(*rows))


def test_a_failed_answer_takes_its_group_along(write: Writer) -> None:
    rows = [mme("1", "a.jpg", "Yes", None), mme("2", "a.jpg", "No", "Yes"), mme("3", "b.jpg", "Yes", "Yes"),
            mme("4", "b.jpg", "No", "No")]  # fmt: skip
    summary = score_file("mme", write(*rows))
    # The wrong half of a.jpg would make 167 of it.
    assert (summary.n, summary.n_failed, summary.value, summary.partial) == (4, 1, 200.0, True)


def test_failed_and_unparsed_answers_are_counted_apart(write: Writer, tmp_path: Path) -> None:
    rows = [line("a", None), line("b", "no idea"), line("c", "14"), line("d", "15")]
    summary = score_file("chartqa", write(*rows), rules="robust", out=tmp_path / "s.jsonl")
    assert (summary.n, summary.n_failed, summary.n_unparsed, summary.n_unscored) == (4, 1, 1, 0)
    assert summary.value == pytest.approx(100 / 3)
    found = [json.loads(text) for text in (tmp_path / "s.jsonl").read_text().splitlines()]
    assert [one["score"] for one in found] == [None, 0.0, 1.0, 0.0]
    assert [one["parsed"] for one in found] == [None, None, "14", "15"] and found[0]["note"] == "failed: no prediction"


def test_what_was_read_is_kept_to_200_letters(write: Writer, tmp_path: Path) -> None:
    score_file("chartqa", write(line("a", "x" * 300, answer="y")), rules="cambrian", out=tmp_path / "s.jsonl")
    assert json.loads((tmp_path / "s.jsonl").read_text())["parsed"] == "x" * 200


def test_a_whole_file_is_not_partial_though_it_might_be(write: Writer) -> None:
    whole = write(mme("1", "a.jpg", "Yes", "Yes"), mme("2", "a.jpg", "No", "No"))
    assert [score_file("mme", whole, partial=may).partial for may in (False, True)] == [False, False]


def test_order_does_not_matter(write: Writer) -> None:
    rows = [
        mme(f"{image}{gold}", f"{image}.jpg", gold, "Yes" if image == "a" else gold)
        for image in "abc"
        for gold in ("Yes", "No")
    ]
    values = {score_file("mme", write(*order)).value for order in (rows, rows[::-1], rows[::2] + rows[1::2])}
    assert len(values) == 1 and values.pop() == pytest.approx(100 * (5 / 6 + 2 / 3))


def test_answers_are_matched_to_the_data_by_id(mini: Callable[[str], None], write: Writer) -> None:
    mini("ai2d")
    both = [{"id": "1", "prediction": "C"}, {"id": 0, "prediction": "A"}]
    assert score_file("ai2d", write(*both)).value == 50.0
    with pytest.raises(UserError, match="jsonl:3: ai2d has no sample '7'"):
        score_file("ai2d", write(*both, {"id": "7", "prediction": "A"}))
    with pytest.raises(UserError, match=r"1 of 2 samples have no answer \(first: '0'\)"):
        score_file("ai2d", write(both[0]))
    summary = score_file("ai2d", write(both[0]), partial=True)
    assert (summary.partial, summary.n, summary.value) == (True, 1, 100.0)


@pytest.mark.slow
def test_ten_megabytes_of_answer_are_scored(write: Writer) -> None:
    path = write(line("a", "B or C, the answer might be 14% or $3,300. " * 250_000))
    for rules in ("cambrian", "robust"):
        summary = score_file("chartqa", path, rules)
        assert (summary.n_failed, summary.value) == (0, 0.0)
    path = write({"id": "a", "record": {"answers": ["dakota"] * 10}, "prediction": "a dakota. " * 1_000_000})
    assert score_file("textvqa", path).value == 0.0


def test_scores_that_cannot_be_written_are_told_so(write: Writer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"s\.jsonl: the scores can't be written there \(.+\)"):
        score_file("chartqa", write(line("a", "14")), out=tmp_path / "file" / "s.jsonl")


def test_a_lone_surrogate_does_not_stop_the_scores(write: Writer, tmp_path: Path) -> None:
    path = write('{"id": "a", "record": {"answer": "x", "type": null}, "prediction": "\\ud800"}')
    assert score_file("chartqa", path, out=tmp_path / "s.jsonl").value == 0.0


def test_cambrian_answers_files(mini: Callable[[str], None], write: Writer) -> None:
    mini("scienceqa")
    suffix = "Please answer directly with only the letter of the correct option and nothing else."
    prompt = f"..<image>\nWhich?\nA. x\nB. y\n{suffix}<|eot_id|>"
    other = prompt.replace("Which?", "Look. And?")
    rows = [
        {"question_id": 0, "prompt": prompt, "answer": "B", "gt_answer": "B", "type": True},
        {"question_id": 1, "answer": "", "type": False},
        {"question_id": 2, "prompt": other, "answer": "The answer is: A", "gt_answer": "A", "type": True},
    ]
    summary = score_file("scienceqa", write(*rows), format_="cambrian")
    assert (summary.n, summary.value) == (2, 50.0)
    # A row without an image is no question, whatever stands in it.
    asked = score_file("scienceqa", write(rows[0], {**rows[1], "answer": "B"}, rows[2]), format_="cambrian")
    assert (asked.n, asked.value) == (2, 50.0)
    with pytest.raises(UserError, match=r"jsonl:1: its prompt is not that of sample '0'"):
        score_file("scienceqa", write({**rows[0], "prompt": "another one"}, rows[2]), format_="cambrian")
    with pytest.raises(UserError, match=r"1 answers to 2 samples: .*\(first: '2'\).* pass --partial"):
        score_file("scienceqa", write(rows[0]), format_="cambrian")
    assert score_file("scienceqa", write(rows[2]), format_="cambrian", partial=True).value == 0.0
    with pytest.raises(UserError, match=r"jsonl:1: its prompt is not that of sample '0': .*And.* there, .*Which"):
        score_file("scienceqa", write({**rows[2], "question_id": 0}, {**rows[0], "question_id": 2}), format_="cambrian")


def test_lmms_eval_samples_files(mini: Callable[[str], None], write: Writer) -> None:
    mini("ai2d")
    rows = [{"doc_id": 1, "filtered_resps": ["C"], "target": "C"}, {"doc_id": 0, "resps": [["A"]], "target": "C"}]
    assert score_file("ai2d", write(*rows), format_="lmms_eval").value == 50.0


def test_vlmevalkit_sheets(mini: Callable[[str], None], tmp_path: Path) -> None:
    mini("ai2d")
    table = pd.DataFrame({"index": [1, 0], "question": ["q", "q"], "prediction": ["C", "nan"]})
    table.to_csv(tmp_path / "m.tsv", sep="\t", index=False)
    table.to_excel(tmp_path / "m.xlsx", index=False)
    for name in ("m.tsv", "m.xlsx"):
        assert score_file("ai2d", tmp_path / name, format_="vlmevalkit").value == 50.0
    table.rename(columns={"prediction": "answer"}).to_csv(tmp_path / "m.csv", index=False)
    with pytest.raises(UserError, match="column 'prediction' is missing"):
        score_file("ai2d", tmp_path / "m.csv", format_="vlmevalkit")


@pytest.mark.parametrize(
    ("indices", "predictions", "said"),
    [
        ([1, 2], ["C", "A"], (50.0, 0)),  # rows numbered from 1, ids from 0
        ([2, 1], ["A", "C"], (50.0, 0)),  # in any order
        ([0, 1], ["C", None], (100.0, 1)),  # an empty cell is no answer
        ([0, 1], ["C", "  "], (100.0, 1)),
        ([0, 1], ["C", "Failed to obtain answer: <class 'RuntimeError'> out of memory"], (100.0, 1)),
        ([0.0, 1.0], ["C", "Failed to obtain answer via API."], (100.0, 1)),
        ([0, 0], ["A", "C"], r"m\.xlsx:3: id '0' occurs twice \(first at .*m\.xlsx:2\)"),
        ([0, 7], ["A", "C"], r"m\.xlsx:3: index '7' is no sample's id"),
        ([5, 6, 7], ["A", "C", "B"], "3 answers to 2 samples"),
        ([5, 6], ["A", "C"], r"m\.xlsx:2: index '5' is no sample's id, and numbers no row of ai2d"),
        ([0], ["A"], r"1 of 2 samples have no answer \(first: '1'\)"),
        ([], [], "no answers in it"),
    ],
)
def test_rows_of_a_sheet_are_matched_or_refused(
    indices: list[Any], predictions: list[Any], said: Any, mini: Callable[[str], None], tmp_path: Path
) -> None:
    mini("ai2d")
    path = tmp_path / "m.xlsx"
    pd.DataFrame({"index": indices, "prediction": predictions}).to_excel(path, index=False)
    if isinstance(said, str):
        with pytest.raises(UserError, match=said):
            score_file("ai2d", path, format_="vlmevalkit")
        return
    summary = score_file("ai2d", path, format_="vlmevalkit")
    assert (summary.value, summary.n_failed) == said


@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_rows_of_text_are_read_as_they_stand(ending: str, tmp_path: Path) -> None:
    mark = "," if ending == "csv" else "\t"
    path = tmp_path / f"m.{ending}"
    rows = ["\ufeffindex" + mark + "prediction" + mark + "more", "0" + mark + '"a, b\tc"' + mark + "x", mark * 2, "1"]
    path.write_text("\n".join(rows), encoding="utf-8")
    assert sheets.sheet(path, ["index", "prediction"]) == [
        (f"{path}:2", {"index": "0", "prediction": "a, b\tc"}), (f"{path}:4", {"index": "1", "prediction": ""})
    ]  # fmt: skip
    path.write_text(f"index{mark}prediction{mark}index\n0{mark}A{mark}1\n")
    with pytest.raises(UserError, match="column 'index' is there 2 times"):
        sheets.sheet(path, ["index", "prediction"])


def test_cells_of_xlsx_are_text_as_people_see_it(tmp_path: Path) -> None:
    path = tmp_path / "m.xlsx"
    pd.DataFrame({"index": [3.0], "x": [True], "y": ["a_x000D_b"], "z": [0.5], "n": [None]}).to_excel(path, index=False)
    ((_, row),) = sheets.sheet(path, ["index", "x", "y", "z", "n"])
    assert row == {"index": "3", "x": "True", "y": "a\rb", "z": "0.5", "n": ""}


def test_sheets_that_are_no_sheets_or_too_large_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.xlsx"
    pd.DataFrame({"index": [0], "prediction": ["A" * 5000]}).to_excel(path, index=False)
    assert sheets.sheet(path, ["index"]) == [(f"{path}:2", {"index": "0"})]
    monkeypatch.setattr(sheets, "UNPACKED", 4096)
    with pytest.raises(UserError, match="MiB unpacked, at most"):
        sheets.sheet(path, ["index"])
    monkeypatch.undo()
    path.write_bytes(b"PK no zip at all")
    with pytest.raises(UserError, match="not an xlsx file"):
        sheets.sheet(path, ["index"])
    with zipfile.ZipFile(path, "w") as parts:
        parts.writestr("xl/workbook.xml", "<workbook>")
    with pytest.raises(UserError, match="can't be read as xlsx") as error:
        sheets.sheet(path, ["index"])
    assert "\n" not in str(error.value)
    (tmp_path / "m.tsv").write_bytes(b"index\tprediction\n0\t\xff\n")
    with pytest.raises(UserError, match="can't be read"):
        sheets.sheet(tmp_path / "m.tsv", ["index"])
    with pytest.raises(UserError, match=r"a sheet is \.xlsx"):
        sheets.sheet(tmp_path / "m.pkl", ["index"])


@pytest.mark.slow
def test_scoring_imports_nothing_heavy(write: Writer) -> None:
    code = (
        "import sys; from pathlib import Path; from mllm_eval.score.files import score_file;"
        f"score_file('chartqa', Path({str(write(line('a', '14')))!r}));"
        "print([m for m in ('torch', 'transformers', 'datasets', 'evaluate') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_hidden_answers_become_the_servers_file(write: Writer, tmp_path: Path) -> None:
    rows = [
        {"id": "a", "record": {"questionId": "7", "answers": None}, "prediction": " 0.28 "},
        {"id": "b", "record": {"questionId": "8", "answers": None}, "prediction": None},
    ]
    summary = score_file("docvqa", write(*rows), out=tmp_path / "scores.jsonl")
    assert (summary.value, summary.n_failed, summary.n_unscored) == (None, 1, 1)
    sent = json.loads((tmp_path / "scores.submission.json").read_text())
    assert sent == [{"questionId": 7, "answer": "0.28"}, {"questionId": 8, "answer": ""}]
    # Where every gold is there, nothing is left for a server.
    shown = {"id": "a", "record": {"questionId": "7", "answers": ["0.28"]}, "prediction": "0.28"}
    score_file("docvqa", write(shown), out=tmp_path / "shown.jsonl")
    assert (tmp_path / "shown.jsonl").is_file() and not (tmp_path / "shown.submission.json").exists()


def test_scores_say_whether_a_file_brought_its_own_records(mini: Callable[[str], None], write: Writer) -> None:
    own = files.score_answers(load_benchmark("chartqa"), write(line("a", "14")))
    assert own.brought
    mini("chartqa")
    lines = [{"id": str(number), "prediction": "14"} for number in range(len(parquet_rows.rows_of("chartqa")))]
    found = files.score_answers(parquet_rows.unpinned("chartqa"), write(*lines))
    assert not found.brought

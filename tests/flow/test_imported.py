"""Answers that were made elsewhere as a row of table and report."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from made_runs import write_scores
from own_benchmark import command, the_run

from mllm_eval.catalog import Weights
from mllm_eval.catalog.variant import BLIND, DEFAULT
from mllm_eval.external import ExternalModel
from mllm_eval.imported import Imported
from mllm_eval.report.cost import cost_of
from mllm_eval.results import read_run
from mllm_eval.saved import read_all_saved, saved
from mllm_eval.storage import read_json, write_jsonl

ROW = Imported("their-vlm", "mine")


def answers(home: Path, texts: list[str | None]) -> Path:
    path = home / "answers.jsonl"
    write_jsonl(path, [{"id": str(n), "prediction": text} for n, text in enumerate(texts) if text is not None])
    return path


def bring(home: Path, texts: list[str | None], *more: str, name: str = "their-vlm") -> Any:
    path = answers(home, texts)
    return command("score", "own", "--data", "mine", "--answers", str(path), "--as", name, *more)


def summary() -> dict[str, Any]:
    found: dict[str, Any] = read_json(ROW.summary_path("own", "cambrian"))
    return found


def rows(*words: str) -> list[dict[str, str]]:
    done = command("table", *words, "--format", "csv")
    assert done.exit_code == 0, done.output
    return list(csv.DictReader(done.stdout.splitlines()))


@pytest.mark.slow
def test_imported_answers_are_a_row_of_table_and_report(own_home: Path) -> None:
    done = bring(own_home, ["red"] * 9 + ["blue"] * 3)
    assert done.exit_code == 0, done.output
    assert "75.00" in done.stdout and "table --runs their-vlm" in done.stderr
    (row,) = rows("--runs", "their-vlm")
    assert (row["label"], row["own"], row["n_ok"], row["run_seed"]) == ("their-vlm", "75.0", "12", "")
    assert [row["label"] for row in rows("--mixed-recipes")] == ["tiny-dinov2", "their-vlm"]
    assert "answers imported from 1 file (jsonl)" in command("table", "--runs", "their-vlm").stdout
    shown = command("show", "their-vlm").stdout
    assert "their-vlm, imported answers; data mine; answered 1 benchmarks" in shown and "answers.jsonl (jsonl)" in shown
    assert f"{ROW.hash}  their-vlm-mine" in command("ls").stdout
    site = own_home / "site"
    assert command("report", "--runs", "tiny-dinov2,their-vlm", "--out", str(site)).exit_code == 0
    page = (site / f"run-{ROW.hash}.html").read_text(encoding="utf-8")
    assert "imported answers" in page and "answers.jsonl" in page and "red 75%" in page
    assert f'<a href="run-{ROW.hash}.html">their-vlm</a>' in (site / "index.html").read_text(encoding="utf-8")
    assert "1 run of recipe own with tiny-llama; 1 row of imported answers" in (site / "index.html").read_text()
    assert command("report", "--runs", "their-vlm", "--out", str(site)).exit_code == 0
    index = (site / "index.html").read_text(encoding="utf-8")
    assert "1 row of imported answers, 1 benchmark with 12 questions in all" in index and 'id="cost"' not in index


@pytest.mark.slow
def test_a_table_and_report_of_all_runs_name_what_they_leave_out(own_home: Path) -> None:
    bring(own_home, ["red"] * 12)
    bring(own_home, ["red"] * 12, name="other-vlm")
    assert [row["label"] for row in rows()] == ["tiny-dinov2"]  # though they are two
    said = f"their-vlm [{ROW.hash}] (imported answers)"
    assert said in " ".join(command("table").stdout.split())
    assert command("report", "--out", str(own_home / "site")).exit_code == 0
    assert said in (own_home / "site/index.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_answers_that_are_missing_have_failed_and_count_nowhere(own_home: Path) -> None:
    texts = ["red"] * 6 + ["blue"] * 5 + [None]
    assert "no answer" in bring(own_home, texts).stderr
    assert not ROW.folder.exists()
    assert bring(own_home, texts, "--partial").exit_code == 0
    assert (summary()["n"], summary()["n_failed"]) == (12, 1)
    assert summary()["value"] == pytest.approx(100 * 6 / 11)
    assert "11/12 answers scored" in command("table", "--runs", "their-vlm").stdout


@pytest.mark.slow
def test_answers_brought_again_take_the_place_of_the_old_and_can_be_scored_anew(own_home: Path) -> None:
    bring(own_home, ["blue"] * 12)
    assert summary()["value"] == 0.0
    bring(own_home, ["red"] * 12)
    assert summary()["value"] == 100.0 and summary()["answers"]
    told = command("diff", "tiny-dinov2", "their-vlm").stdout
    assert "imported.name" in told and "their-vlm" in told
    before = summary()
    assert f"{ROW.name}: own" in command("score", "their-vlm").stdout
    assert summary() == before
    assert read_all_saved().external == (ROW,) and saved(ROW.name) == ROW and not read_all_saved().unreadable


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tiny-dinov2", "'tiny-dinov2' is an encoder"),
        ("../up", "can't name a row"),
        ("", "can't name a row"),
        ("0123456789ab", "can't name a row"),
    ],
)
def test_names_that_are_no_names_of_a_row_are_refused(own_home: Path, name: str, message: str) -> None:
    done = bring(own_home, ["red"] * 12, name=name)
    assert done.exit_code == 2 and message in done.stderr
    assert read_all_saved().external == ()


def test_a_row_needs_answers_to_the_data_itself(own_home: Path) -> None:
    path = own_home / "brought.jsonl"
    record = {"image": "0.png", "question": "What is 0?", "answer": "red"}
    path.write_text(json.dumps({"id": "0", "record": record, "prediction": "red"}) + "\n")
    done = command("score", "own", "--data", "mine", "--answers", str(path), "--as", "their-vlm")
    assert done.exit_code == 2 and "bring their own records" in done.stderr
    assert not ROW.folder.exists()
    assert "names a file of answers" in command("score", "tiny-dinov2", "--as", "x").stderr


@pytest.mark.slow
def test_the_cost_of_what_is_no_run_is_what_is_known_of_it(own_home: Path) -> None:
    bring(own_home, ["red"] * 12)
    cost = cost_of(read_run(ROW.folder))
    assert (cost.visual_tokens, cost.encoder_gflop, cost.llm_gflop, cost.seconds_a_question) == (None,) * 4
    model = ExternalModel("vlm", Weights(path="nowhere"), "mine", digest="d" * 64)
    model.write_config()
    for variant, tokens in ((DEFAULT, 590), (BLIND, 14)):
        lines = [{"id": str(n), "prompt": "p", "images": [], "text": "red", "tokens_in": tokens + n, "tokens_out": 2,
                  "state": "ok", "reason": ""} for n in range(12)]  # fmt: skip
        write_jsonl(model.answers_path("own", variant), lines)
    step = {"step": "answers: own", "kind": "answers", "benchmark": "own", "variant": "default", "seconds": 6.0}
    write_jsonl(model.folder / "ledger.jsonl", [step])
    cost = cost_of(read_run(model.folder))
    assert (cost.visual_tokens, cost.seconds_a_question, cost.encoder_gflop) == (576, 0.5, None)
    scored = [{"id": str(n), "score": 1, "group": str(n), "cluster": str(n)} for n in range(12)]
    write_scores(model, "own", scored, protocol_hash=summary()["protocol_hash"])  # type: ignore[arg-type]
    theirs, vlm = rows("--runs", "their-vlm,vlm", "--cost")
    assert (theirs["visual_tokens"], theirs["seconds"]) == ("", "")
    assert (vlm["visual_tokens"], vlm["gflop"], vlm["seconds"]) == ("576", "", "0.5000")
    noted = " ".join(command("table", "--runs", "their-vlm,vlm", "--cost").stdout.split())
    assert "their-vlm, vlm: of a model that is not this project's no operations are counted" in noted
    assert read_run(the_run().folder).external == "" and read_run(model.folder).external == "an external model"

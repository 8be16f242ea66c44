"""What stands behind a value: its parts, the answers that were given, golds against answers; in every place."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest
import site_runs
from made_runs import make_run, write_scores
from typer.testing import CliRunner

from mllm_eval.cli.app import app
from mllm_eval.data import snapshots
from mllm_eval.distribution import distribution
from mllm_eval.report import FORMATS, render
from mllm_eval.report.details import details_table
from mllm_eval.report.evidence import read_scored
from mllm_eval.report.given import confusion, most_frequent, one_answer_words, top_answer
from mllm_eval.report.parts import parts
from mllm_eval.report.site import write_report
from mllm_eval.results import read_run
from mllm_eval.run import Run

# As the scorers of these benchmarks report.
MME = {"total_score": 1335.7, "Perception": 1014.3, "Cognition": 321.4,
       "artwork": {"acc_score": 100.0, "acc_plus_score": 71.4, "score": 171.4, "size": 14.0}}  # fmt: skip
SEED = {"accuracy": 0.364, "total_count": 162.0, "Text Recognition": {"accurcay": 0.125, "total": 16}}
OCRBENCH = {"Doc-oriented VQA": {"accuracy": 15.6, "total": 32}, "total_accuracy": {"accuracy": 18.9, "total": 180}}
NESTED = {"coco": {"accuracy": 0.25, "total_count": 84, "per_category": {"Count": {"accuracy": 0.5, "total": 42}}},
          "CV-Bench-2D": 31.5}  # fmt: skip


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLLM_EVAL_RESULTS", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")


@pytest.mark.parametrize(
    ("benchmark", "reported", "expected"),
    [
        ("mme", MME, [("total_score", 1335.7, None), ("Cognition", 321.4, None), ("artwork", 171.4, 14)]),
        ("seed", SEED, [("Text Recognition", 12.5, 16)]),
        ("ocrbench", OCRBENCH, [("Doc-oriented VQA", 15.6, 32)]),
        ("cvbench_2d", NESTED, [("coco", 25.0, 84), ("coco / per_category / Count", 50.0, 42)]),
        ("nobody_knows", {"accuracy": 40.0, "by size": {"small": {"share": 12.0, "n": 8}}, "why": "text"},
         [("by size / small", 12.0, 8)]),
        ("gqa", {}, []),
    ],
)  # fmt: skip
def test_the_parts_of_a_report_have_a_value_and_a_count(
    benchmark: str, reported: dict[str, Any], expected: list[tuple[str, float, int | None]]
) -> None:
    found = parts({"benchmark": benchmark, "rules": "cambrian", "variant": "default", "reported": reported})
    assert [(one.name, one.value, one.n) for one in found] == expected


def test_what_stands_beside_a_parts_value_is_said() -> None:
    found = parts({"benchmark": "mme", "rules": "cambrian", "variant": "default", "reported": MME})
    assert found[-1].words == "acc_score 100.0, acc_plus_score 71.4"


def one_letter(name: str = "mini-dino", reported: dict[str, Any] | None = None) -> Run:
    """A run that says C to 83 of 100 questions of AI2D whose golds are four letters, equally often."""
    golds, said = ["A", "B", "C", "D"] * 25, ["C"] * 83 + ["A"] * 17
    lines: list[dict[str, Any]] = [
        {"id": f"{i:03d}", "group": str(i), "cluster": str(i), "parsed": s, "score": int(s == g)}
        for i, (s, g) in enumerate(zip(said, golds, strict=True))
    ]
    run = make_run(name, benchmarks=["gqa"])
    given = distribution(((line["parsed"], line["score"]) for line in lines), golds)
    write_scores(run, "ai2d", lines, given=given, reported=reported or {"by kind": {"food": {"accuracy": 20.0}}})
    return run


def call(*words: str) -> str:
    done = CliRunner().invoke(app, list(words))
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.slow
def test_one_answer_for_most_is_said_wherever_the_run_is_shown() -> None:
    run = one_letter()
    assert "'C' to AI2D in 83%" in one_answer_words(read_scored(read_run(run.folder)))
    assert "'C' to AI2D in 83%" in call("show", "mini-dino")
    assert any("'C' to AI2D in 83%" in note for note in details_table([read_run(run.folder)]).notes)


def test_a_long_answer_is_cut_in_the_table_of_all_benchmarks() -> None:
    run = one_letter()
    given = distribution([("The University of California", 1)] * 30, ["x"] * 30)
    write_scores(run, "docvqa", [{"id": "1", "group": "1", "cluster": "1", "score": 1}], given=given)
    shown = call("show", "mini-dino")
    assert "the univers… 100% !" in shown and "0123456789ab" in shown
    assert "answers: the university of california 100%" in call("show", "mini-dino", "--benchmark", "docvqa")


@pytest.mark.slow
def test_show_prints_parts_and_golds_against_answers() -> None:
    one_letter()
    shown = call("show", "mini-dino")
    assert "AI2D: by kind / food 20.0" in shown and "C 83% !" in shown
    shown = call("show", "mini-dino", "--benchmark", "ai2d")
    assert "by kind / food" in shown and "answers: C 83%, A 17%" in shown and "golds: A 25%" in shown
    rows = [line.split() for line in shown.splitlines()]
    assert ["gold", "A", "B", "C", "D", "right"] in rows
    failed = CliRunner().invoke(app, ["show", "mini-dino", "--benchmark", "ai2"])
    assert failed.exit_code == 2 and "Did you mean 'ai2d'" in failed.output


def test_the_parts_stand_in_the_table_of_details_in_every_format() -> None:
    run = one_letter()
    table = details_table([read_run(run.folder)])
    for form in FORMATS:
        assert "food" in render(table, form)
    lines = {line["label"]: line for line in csv.DictReader(io.StringIO(render(table, "csv")))}
    assert lines["AI2D: by kind / food"]["value"] == "20.00" and lines["AI2D"]["most_frequent_answer"] == "C 83%"


@pytest.mark.slow
def test_a_runs_page_has_parts_and_the_table_of_golds_and_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "load_samples", lambda benchmark, *_: site_runs.samples(benchmark.name, 100))
    run = one_letter(reported={"<script>": {"accuracy": 20.0, "total": 9}})
    site = write_report([read_run(run.folder)], run.folder.parent / "site", images=False)
    page = (site / f"run-{run.hash}.html").read_text(encoding="utf-8")
    assert "&#x27;C&#x27; to AI2D in 83%" in page
    assert '<td class="num">20.0</td><td class="num">9</td>' in page and "<script>:" not in page
    assert "AI2D: golds against answers" in page
    assert "&#x27;C&#x27; to AI2D in 83%" in (site / "index.html").read_text(encoding="utf-8")


def test_golds_and_answers_as_a_table_end_with_the_share_that_is_right() -> None:
    found = distribution([("A", 1), ("B", 0), (None, 0), ("B", 1)], ["A", "A", "B", "B"])
    head, rows = confusion(found)
    assert head == ["gold", "A", "B", "none read", "right"]
    assert rows == [["A", "1", "1", "0", "50%"], ["B", "0", "1", "1", "50%"]]
    assert most_frequent(found) == "B 67%, A 33%" and top_answer(found) == "B 67%"


def test_an_answer_may_hold_a_comma() -> None:
    assert top_answer(distribution([("1,000", 1), ("1,000", 0), ("7", 0)], ["1,000"] * 3)) == "1,000 67%"

"""Samples without an answer: listed, asked again, and said in the cell where they are too many, in every format."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path

import made_runs
import pytest
from typer.testing import CliRunner

from mllm_eval.answers import Answer, Journal
from mllm_eval.cli.app import app
from mllm_eval.errors import UserError
from mllm_eval.report import comparison
from mllm_eval.report.evidence import read_scored
from mllm_eval.report.render import render
from mllm_eval.results import AVERAGE, read_run
from mllm_eval.results.failed import allowed_share, failed_samples, too_many_failed


def the_answer(name: str) -> Answer:
    return Answer(name, "p" * 16, (), "yes", 4, 1)


def test_failed_samples_are_listed_with_their_reason_and_dropped_to_be_asked_again(tmp_path: Path) -> None:
    kept = Journal(tmp_path / "answers" / "gqa.blind.jsonl")
    broken = replace(the_answer("b"), state="error", text="", reason="cannot be decoded")
    kept.append([the_answer("a"), broken, the_answer("c")])
    kept.finish("abc")
    found = list(failed_samples(tmp_path / "answers"))
    assert found == [("gqa", "blind", "b", "cannot be decoded")]
    assert kept.drop_failed() == 1 and not kept.complete and sorted(kept.done()) == ["a", "c"]
    assert Journal(kept.path).drop_failed() == 0
    kept.append([the_answer("b")])
    kept.finish("abc")
    assert list(failed_samples(tmp_path / "answers")) == []


@pytest.mark.parametrize(
    ("said", "failed", "n", "many"),
    [("", 1, 1000, 0), ("", 2, 1000, 2), ("", 1, 999, 1), ("0.5%", 4, 1000, 0), ("0.005", 6, 1000, 6), ("0", 1, 9, 1)],
)
def test_how_many_may_fail(monkeypatch: pytest.MonkeyPatch, said: str, failed: int, n: int, many: int) -> None:
    monkeypatch.setenv("MLLM_EVAL_FAILED", said)
    assert too_many_failed({"n_failed": failed, "n": n}) == many


@pytest.mark.parametrize("said", ["much", "-1", "101%", "nan"])
def test_what_is_no_share_is_refused(monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    monkeypatch.setenv("MLLM_EVAL_FAILED", said)
    with pytest.raises(UserError, match=r"MLLM_EVAL_FAILED: .* is no share"):
        allowed_share()


@pytest.fixture
def run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of which one sample of GQA failed; nothing else."""
    monkeypatch.setenv("MLLM_EVAL_RESULTS", str(tmp_path))
    run = made_runs.make_run("mini-dino", 0.5)
    lines = [{**line, "score": 1 if at else None} for at, line in enumerate(made_runs.layout("gqa"))]
    made_runs.write_scores(run, "gqa", lines)
    return run.folder


@pytest.mark.slow
def test_the_cell_says_so_in_every_format_and_the_headline_leaves_it_out(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = read_run(run_folder)
    scored = read_scored(record)
    assert scored.failing == {"gqa": 1} and AVERAGE not in scored.values and "general" not in scored.values
    assert "gqa" in scored.values and AVERAGE not in scored.draws
    table = comparison([record])
    for form in ("terminal", "md", "tex", "html"):
        assert "(1 failed)" in render(table, form), form
        assert "more than 0.1" in " ".join(render(table, form).split()), form
    (line,) = csv.DictReader(io.StringIO(render(table, "csv")))
    assert line["gqa_failed"] == "1" and line["gqa"] and AVERAGE not in line
    monkeypatch.setenv("MLLM_EVAL_FAILED", "50%")
    allowed = comparison([read_run(run_folder)])
    assert AVERAGE in allowed.rows[0].cells and "gqa_failed" not in render(allowed, "csv")
    assert "(1 failed)" not in render(allowed, "md")


@pytest.mark.slow
def test_a_benchmark_that_failed_too_often_is_neither_best_nor_tested(run_folder: Path) -> None:
    other = read_run(made_runs.make_run("mini-clip", 0.2).folder)
    table = comparison([read_run(run_folder), other])
    assert not any(row.cells["gqa"].best for row in table.rows if row.cells["gqa"].failed)
    assert not any("GQA" in sentence for sentence in table.sentences)


@pytest.mark.slow
def test_show_lists_them(run_folder: Path) -> None:
    answers = Journal(run_folder / "answers" / "gqa.jsonl")
    answers.append([the_answer("0"), replace(the_answer("1"), state="error", text="", reason="no room")])
    answers.finish("01")
    done = CliRunner().invoke(app, ["show", run_folder.name, "--failed"])
    assert done.exit_code == 0, done.output
    assert "gqa  1  no room" in done.output and "1 samples failed" in done.output

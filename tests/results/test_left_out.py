"""Runs whose config no longer loads: named wherever all runs are shown, never absent without a word."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from html import unescape
from pathlib import Path

import made_runs
import pytest
from typer.testing import CliRunner

from mllm_eval.cli.app import app
from mllm_eval.errors import UserError
from mllm_eval.results import read_records
from mllm_eval.run import Run
from mllm_eval.saved import read_all_saved, saved, saved_runs
from mllm_eval.storage import results_home

SOME = ["chartqa", "ai2d"]


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Run, Run]:
    monkeypatch.setenv("MLLM_EVAL_RESULTS", str(tmp_path))
    good = made_runs.make_run("mini-dino", 0.5, benchmarks=SOME)
    return good, made_runs.make_run("mini-clip", 0.6, benchmarks=SOME)


def _of_another_version(folder: Path) -> None:
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("seed:", "sead:"))


def _cut(folder: Path) -> None:
    (folder / "config.yaml").write_text("encoder: [")


def _gone(folder: Path) -> None:
    (folder / "config.yaml").unlink()


def said(*arguments: str) -> str:
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == 0, (done.output, done.exception)
    return " ".join(done.output.split())


@pytest.mark.slow
@pytest.mark.parametrize("damage", [_of_another_version, _cut, _gone])
def test_a_run_whose_config_no_longer_loads_is_named_everywhere(
    damage: Callable[[Path], None], two: tuple[Run, Run]
) -> None:
    good, bad = two
    damage(bad.folder)
    assert set(read_all_saved().unreadable) == {bad.hash} and [run.hash for run in saved_runs()] == [good.hash]
    left_out = f"{bad.hash}, because its config no longer loads: "
    assert f"{bad.hash} left out, because its config no longer loads: " in said("ls") and good.hash in said("ls")
    for arguments in (["table"], ["table", "--details"], ["table", "--variants", "chartqa"], ["table", "compare"]):
        text = said(*arguments, "--format", "md")
        assert f"Left out: {left_out}" in text.replace("\\", "") and "config.yaml" in text, arguments
    said("report", "--no-images")
    assert f"Left out: {left_out}" in unescape((results_home() / "report" / "index.html").read_text())
    with pytest.raises(UserError, match=f"run {bad.hash}: its config no longer loads: .*config.yaml"):
        saved(bad.hash[:8])


def test_where_no_run_loads_the_error_says_why(two: tuple[Run, Run]) -> None:
    for run in two:
        _cut(run.folder)
    assert not read_records().every and len(read_records().notes) == 2
    done = CliRunner().invoke(app, ["table"])
    assert done.exit_code == 2 and all(run.hash in done.output for run in two)


@pytest.mark.slow
def test_what_is_no_run_is_not_named(two: tuple[Run, Run]) -> None:
    shutil.rmtree(two[1].folder)
    (two[0].folder.parent / "notes").mkdir()
    assert read_all_saved().unreadable == {} and "Left out" not in said("table", "--format", "md")

"""A run made again from its record: the same to the last bit, or what differs is said. And a run copied elsewhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tiny_models import write_models
from typer.testing import CliRunner

from mllm_eval import pipeline
from mllm_eval.cli.app import app
from mllm_eval.miniature.build import build
from mllm_eval.pipeline.reproduction import reproduce
from mllm_eval.run import Run
from mllm_eval.storage import read_json, write_json

RECIPE = str(Path(__file__).parents[1] / "recipes" / "tiny.yaml")
ENCODER = "tiny-dinov2"


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("MLLM_EVAL_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("MLLM_EVAL_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("MLLM_EVAL_PATH", str(tmp_path))
    build(tmp_path / "data", alignment=24, instruction=40)
    write_models(tmp_path)
    return pipeline.evaluate(ENCODER, RECIPE, benchmarks=["mme"])


@pytest.mark.slow
def test_a_run_is_made_again_and_compared_and_goes_on_where_it_was_copied_to(
    made: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path: path.read_bytes() for path in made.folder.rglob("*") if path.is_file()}
    found = reproduce(made, tmp_path / "again")
    # The commit may change while the tests run.
    assert [one for one in found.environment if not one.startswith("git:")] == []
    assert found.same and set(found.answers) == {"mme"}
    assert found.losses == {1: (4, 0.0), 2: (8, 0.0)}
    assert {path: path.read_bytes() for path in made.folder.rglob("*") if path.is_file()} == before

    # What is not the same is said: another answer, another loss, another version.
    path = made.folder / "manifest.json"
    manifest = read_json(path)
    manifest["sessions"][-1]["packages"]["numpy"] = "0.1"
    write_json(path, manifest)
    log = made.folder / "stage1" / "log.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    lines[2]["loss"] += 0.5
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (asked, _, _) = found.answers["mme"]
    done = CliRunner().invoke(app, ["reproduce", made.hash, "--into", str(tmp_path / "again")])
    assert done.exit_code == 1, done.output
    assert "not the same" in done.output and "stage 1: 4 steps, losses differ by up to 0.5" in done.output
    assert "environment: numpy 0.1, now" in done.output and f"answers: mme: {asked}, the same bytes" in done.output

    # The same run at another place, without what can be made anew, goes on with other questions.
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(made.folder, elsewhere / "runs" / made.hash)
    answered = made.answers_path("mme").read_bytes()
    monkeypatch.setenv("MLLM_EVAL_RESULTS", str(elsewhere))
    again = pipeline.evaluate(ENCODER, RECIPE, benchmarks=["mme", "gqa"])
    assert again.folder.parent.parent == elsewhere and again.answers_path("gqa").is_file()
    assert again.answers_path("mme").read_bytes() == answered

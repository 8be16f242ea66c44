"""The whole flow on tiny random weights: from data and two stages of training to scores, with everything that may go
wrong on the way."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import opened
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from forked import run_ranks
from places import TINY_RECIPE
from typer.testing import CliRunner

from mllm_eval import pipeline
from mllm_eval.answers import Answer, read_answers
from mllm_eval.catalog.variant import BLIND, DEFAULT
from mllm_eval.cli.app import app
from mllm_eval.data import images
from mllm_eval.errors import UserError
from mllm_eval.run import Run
from mllm_eval.storage import read_json, read_jsonl, results_home

# What the tests share takes long to make.
pytestmark = pytest.mark.slow


BENCHMARKS = ["mme", "gqa"]
NAMES = ("mme", "gqa", "mme.blind", "gqa.blind")
FILES = {made for name in NAMES for made in (f"{name}.jsonl", f".{name}.jsonl.sum", f"{name}.limit")}


@pytest.fixture(scope="module")
def first(tiny_home: Path) -> dict[str, bytes]:
    """The files of answers and scores of a run that nothing disturbed; its folder stays."""
    return results(evaluate())


def evaluate(blind: bool = True) -> Run:
    return pipeline.evaluate("tiny-dinov2", TINY_RECIPE, benchmarks=BENCHMARKS, blind=blind)


def the_run() -> Run:
    return Run.of("tiny-dinov2", TINY_RECIPE)


def results(run: Run) -> dict[str, bytes]:
    files = [*run.folder.glob("answers/*"), *run.folder.glob("scores/*")]
    return {str(path.relative_to(run.folder)): path.read_bytes() for path in files}


@pytest.fixture
def parquet(tiny_home: Path) -> Iterator[Path]:
    """A benchmark's file that a test may spoil."""
    path = tiny_home / "data/miniature/MME/default/test-00000-of-00001.parquet"
    original = path.read_bytes()
    images.columns.clear()
    yield path
    path.write_bytes(original)
    images.columns.clear()


def test_the_model_answers_in_many_ways(first: dict[str, bytes]) -> None:
    answers = read_answers(the_run().answers_path("mme")) + read_answers(the_run().answers_path("gqa"))
    assert len({answer.text for answer in answers}) > 10


def test_every_sample_has_an_answer_and_a_score(first: dict[str, bytes]) -> None:
    run = the_run()
    assert {name.removeprefix("answers/") for name in first if name.startswith("answers/")} == {*FILES, "limits.json"}
    for name in BENCHMARKS:
        for variant in (DEFAULT, BLIND):
            answers = read_answers(run.answers_path(name, variant))
            assert {answer.state for answer in answers} == {"ok"}
            assert {len(answer.images) for answer in answers} == {0 if variant == BLIND else 1}
            for rules in ("cambrian", "robust"):
                summary = read_json(run.summary_path(name, rules, variant))
                scores = read_jsonl(run.scores_path(name, rules, variant))
                assert summary["n"] == len(answers) == len(scores) > 100
                assert summary["n_failed"] == 0
                assert {score["id"] for score in scores} == {answer.id for answer in answers}


def test_the_same_command_again_computes_nothing(first: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    def loaded(*_: object) -> None:
        raise AssertionError("something is computed again")

    # No model of any kind is made, whoever would load it.
    monkeypatch.setattr(torch.nn.Module, "__init__", loaded)
    monkeypatch.setattr("mllm_eval.pipeline.completion.score_answers", loaded)
    results_before = {path: path.stat().st_mtime_ns for path in the_run().folder.rglob("*") if path.is_file()}
    assert results(evaluate()) == first
    for path, time in results_before.items():
        assert path.stat().st_mtime_ns == time or path.name in ("manifest.json", ".lock")


def test_a_finished_run_is_shown_from_each_config_and_summary_once(first: dict[str, bytes]) -> None:
    words = ["eval", "tiny-dinov2", "--recipe", TINY_RECIPE, "--benchmarks", ",".join(BENCHMARKS), "--blind"]
    with opened.opened() as counts:
        done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0 and "complete, nothing to do" in done.output
    # Two benchmarks, with and without images, by two rule sets.
    assert len(opened.summaries(counts)) == 8 and set(opened.summaries(counts).values()) == {1}
    assert set(opened.configs(counts).values()) <= {1}


def test_the_ledger_says_what_each_step_was(first: dict[str, bytes]) -> None:
    lines = read_jsonl(the_run().folder / "ledger.jsonl")
    kinds: dict[str, set[tuple[str, str]]] = {}
    for line in lines:
        kinds.setdefault(line["kind"], set()).add((line.get("benchmark", ""), line.get("variant", "")))
    everything = {(name, variant) for name in BENCHMARKS for variant in ("default", "blind")}
    assert kinds.keys() >= {"training", "load", "features", "answers", "scores"}
    assert kinds["answers"] == kinds["scores"] == everything
    # Blind questions show no image: none of the seconds are theirs.
    assert kinds["features"] <= {(name, "default") for name in BENCHMARKS}
    assert all(line["images"] > 0 for line in lines if line["kind"] == "features")


KILLED = """
import os, signal
from mllm_eval.answers import Journal
from mllm_eval.cli import main

append, batches = Journal.append, []

def append_and_die(journal, answers):
    append(journal, answers)
    batches.append(answers)
    if len(batches) == 3:
        with open(journal.part, "ab") as file:
            file.write(b'{"id": "half a li')
        os.kill(os.getpid(), signal.SIGKILL)

Journal.append = append_and_die
main()
"""


def test_killed_while_it_answers_it_goes_on_to_the_same_bytes(first: dict[str, bytes]) -> None:
    folder = the_run().folder
    for part in ("answers", "scores"):
        shutil.rmtree(folder / part)
    words = ["eval", "tiny-dinov2", "--recipe", TINY_RECIPE, "--benchmarks", ",".join(BENCHMARKS), "--blind"]
    # Another number of threads could round sums otherwise.
    env = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    died = subprocess.run([sys.executable, "-c", KILLED, *words], env=env, capture_output=True, text=True)
    assert died.returncode == -signal.SIGKILL, died.stdout + died.stderr
    assert list((folder / "answers").glob("*.part"))
    half = sum(path.read_bytes().count(b"\n") for path in (folder / "answers").iterdir())
    assert 0 < half < 392
    assert results(evaluate()) == first


WORDS = ["eval", "tiny-dinov2", "--recipe", TINY_RECIPE, "--benchmarks", ",".join(BENCHMARKS), "--blind"]


def eval_as_rank(die: bool) -> int:
    """A process of an evaluation; whichever answers first may die in the middle of it."""
    from mllm_eval.answers import Journal
    from mllm_eval.cli.app import app

    append = Journal.append

    def append_and_die(journal: Journal, answers: Sequence[Answer]) -> None:
        append(journal, answers)
        with open(journal.part, "ab") as file:
            file.write(b'{"id": "half a li')
        os.kill(os.getpid(), signal.SIGKILL)

    if die:
        Journal.append = append_and_die  # type: ignore[method-assign]
    return app(WORDS, standalone_mode=False) or 0


def test_several_processes_answer_to_the_same_bytes_killed_and_with_another_number(
    first: dict[str, bytes], tmp_path: Path
) -> None:
    folder = the_run().folder
    for part in (folder / "answers", folder / "scores", folder.parents[1] / "features"):
        shutil.rmtree(part)
    environment = {"MLLM_EVAL_RESULTS": str(results_home()), "OMP_NUM_THREADS": str(torch.get_num_threads())}
    codes = run_ranks(3, tmp_path, eval_as_rank, True, environment=environment)
    assert -signal.SIGKILL in codes
    half = sum(path.read_bytes().count(b"\n") for path in (folder / "answers").glob("*.part*"))
    assert 0 < half < 392 and not list((folder / "answers").glob("*.jsonl"))
    codes = run_ranks(2, tmp_path, eval_as_rank, False, environment=environment)
    assert codes == [0, 0], (tmp_path / "rank0.log").read_text()[-3000:]
    assert results(the_run()) == first
    # One tells: the table's row stands in the output of rank 0 alone.
    told = [(tmp_path / f"rank{rank}.log").read_text() for rank in range(2)]
    assert "tiny-dinov2" in told[0] and told[1] == ""


def test_torchrun_trains_answers_and_scores_under_one_lock(tiny_home: Path, tmp_path: Path) -> None:
    recipe = yaml.safe_load(Path(TINY_RECIPE).read_text())
    for stage in ("stage1", "stage2"):
        recipe[stage]["micro_batch"] = 2
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(recipe))
    words = ["eval", "tiny-dinov2", "--recipe", str(path), "--benchmarks", "mme", "--launch", "torchrun"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "mllm_eval", *words, "--processes", "2"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("tiny-dinov2, recipe tiny") == 1
    run = Run.of("tiny-dinov2", str(path))
    steps = [json.loads(line)["step"] for line in (run.folder / "ledger.jsonl").read_text().splitlines()]
    # Features may be there from the tests before.
    steps = [step for step in steps if not step.startswith("features:")]
    assert steps == ["training", "load the checkpoint", "answers: mme", "scores: mme"]
    answered = results(run)
    shutil.rmtree(run.folder / "answers")
    shutil.rmtree(run.folder / "scores")
    pipeline.evaluate("tiny-dinov2", str(path), benchmarks=["mme"])
    assert results(run) == answered


def test_a_half_written_folder_is_mended(first: dict[str, bytes]) -> None:
    run = the_run()
    (run.folder / "config.yaml").write_text("encoder: {na")
    (run.folder / "manifest.json").write_text("")
    whole = run.answers_path("mme")
    part = whole.with_name(whole.name + ".part")
    part.write_bytes(whole.read_bytes()[:1000])
    whole.unlink()
    run.summary_path("gqa", "cambrian").write_text('{"benchmark": ')
    assert results(evaluate()) == first
    assert Run.load(run.folder) == run


def test_a_broken_image_fails_its_sample_and_the_rest_goes_on(parquet: Path, first: dict[str, bytes]) -> None:
    original, table = parquet.read_bytes(), pq.read_table(parquet)
    whole = {answer.id: answer for answer in read_answers(the_run().answers_path("mme"))}
    shutil.rmtree(the_run().folder / "answers")
    rows = table.column("image").to_pylist()
    rows[7] = {**rows[7], "bytes": rows[7]["bytes"][:200]}
    field = table.schema.field("image")
    at = table.schema.get_field_index("image")
    pq.write_table(table.set_column(at, field, pa.array(rows, field.type)), parquet)
    run = evaluate(blind=False)
    answers = read_answers(run.answers_path("mme"))
    failed = [answer for answer in answers if answer.state == "error"]
    assert len(failed) == 1
    assert parquet.name in failed[0].reason and "row 7" in failed[0].reason
    assert read_json(run.summary_path("mme", "cambrian"))["n_failed"] == 1
    assert all(answer == whole[answer.id] for answer in answers if answer.state == "ok")
    parquet.write_bytes(original)
    images.columns.clear()
    assert results(evaluate()) == first


@pytest.mark.parametrize("fault", ["column", "type", "parquet"])
def test_bad_data_is_named_in_one_line_and_the_folder_stays_usable(
    parquet: Path, first: dict[str, bytes], fault: str
) -> None:
    original, table = parquet.read_bytes(), pq.read_table(parquet)
    if fault == "column":
        pq.write_table(table.drop_columns(["answer"]), parquet)
    elif fault == "type":
        at = table.schema.get_field_index("answer")
        pq.write_table(table.set_column(at, "answer", pa.array(range(len(table)))), parquet)
    else:
        parquet.write_bytes(original[: len(original) // 2])
    with pytest.raises(UserError, match=parquet.name) as caught:
        evaluate()
    assert fault == "parquet" or "answer" in str(caught.value)
    parquet.write_bytes(original)
    assert results(evaluate()) == first


def test_unreadable_weights_are_named(tiny_home: Path, first: dict[str, bytes]) -> None:
    weights = tiny_home / "weights/tiny-dinov2/model.safetensors"
    original, times = weights.read_bytes(), weights.stat()
    try:
        weights.write_bytes(original[:5000])
        with pytest.raises(UserError, match="tiny-dinov2"):
            evaluate()
    finally:
        weights.write_bytes(original)
        os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert results(evaluate()) == first


def test_unknown_names_are_answered_with_the_nearest(tiny_home: Path) -> None:
    with pytest.raises(UserError, match="tiny-dinov2"):
        pipeline.evaluate("tiny-dinov3", TINY_RECIPE)
    with pytest.raises(UserError, match="gqa"):
        pipeline.evaluate("tiny-dinov2", TINY_RECIPE, benchmarks=["gqaa"])

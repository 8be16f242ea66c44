"""A run is named by what can change its results, and its folder survives crashes and edits."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from mllm_eval.catalog import load_encoder, load_llm, load_recipe
from mllm_eval.catalog.variant import BLIND
from mllm_eval.catalog.weights import Weights
from mllm_eval.errors import UserError
from mllm_eval.run import Run
from mllm_eval.saved import saved_run, saved_runs

DIGESTS = {"encoder": "e" * 64, "llm": "f" * 64}


@pytest.fixture(autouse=True)
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLLM_EVAL_RESULTS", str(tmp_path))
    return tmp_path


def make(of: str = "mini-dino", seed: int = 0, **changes: object) -> Run:
    run = Run(load_encoder(of), load_recipe("mini"), load_llm("mini-llama"), seed, DIGESTS)
    return dataclasses.replace(run, **changes)  # type: ignore[arg-type]


def test_the_hash_sees_what_can_change_a_result() -> None:
    run = make()
    encoder, recipe = run.encoder, run.recipe
    pixels = encoder.preprocessing.model_copy(update={"mode": "crop"})
    stage = recipe.stage2.model_copy(update={"lr": 0.5})
    others = [
        make(seed=1),
        make(weights={**DIGESTS, "encoder": "0" * 64}),
        make(weights={**DIGESTS, "llm": "0" * 64}),
        make(encoder=encoder.model_copy(update={"feature_layer": -2})),
        make(encoder=encoder.model_copy(update={"preprocessing": pixels})),
        make(recipe=recipe.model_copy(update={"tokens": 49})),
        make(recipe=recipe.model_copy(update={"stage2": stage})),
    ]
    assert len({run.hash, *(other.hash for other in others)}) == 1 + len(others)


def test_the_hash_forgets_what_cannot() -> None:
    run = make()
    facts = run.encoder.facts.model_copy(update={"samples_seen": "many"})
    assert make(encoder=run.encoder.model_copy(update={"facts": facts, "params": 1})).hash == run.hash
    moved = run.encoder.model_copy(update={"weights": Weights(path="elsewhere")})
    assert make(encoder=moved).hash == run.hash
    assert make(recipe=run.recipe.model_copy(update={"assumptions": {}, "seed": 7})).hash == run.hash


def test_paths(results: Path) -> None:
    run = make()
    assert run.name == f"mini-dino-mini-s0-{run.hash}"
    assert run.folder == results / "runs" / run.hash
    assert run.answers_path("mme") == run.folder / "answers" / "mme.jsonl"
    assert run.answers_path("mme", BLIND) == run.folder / "answers" / "mme.blind.jsonl"
    assert run.scores_path("mme", "robust") == run.folder / "scores" / "mme.robust.jsonl"
    assert run.summary_path("mme", "cambrian", BLIND) == run.folder / "scores" / "mme.blind.cambrian.json"


def test_prepare_writes_a_folder_that_loads_as_the_same_run() -> None:
    run = make()
    run.prepare()
    loaded = Run.load(run.folder)
    assert loaded == run
    assert loaded.hash == run.hash
    assert loaded.recipe.assumed() == run.recipe.assumed() != {}
    manifest = json.loads((run.folder / "manifest.json").read_text())
    assert manifest["assumed"] == run.recipe.assumed()
    assert manifest["sessions"][0]["packages"]["numpy"]
    assert manifest["sessions"][0]["threads"] >= 1


@pytest.mark.slow
def test_a_second_session_is_noted_only_in_a_new_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    run = make()
    run.prepare()
    before = (run.folder / "manifest.json").read_bytes()
    run.prepare()
    assert (run.folder / "manifest.json").read_bytes() == before
    monkeypatch.setenv("OMP_NUM_THREADS", "77")
    run.prepare()
    sessions = json.loads((run.folder / "manifest.json").read_text())["sessions"]
    assert [session["threads"] == 77 for session in sessions] == [False, True]


@pytest.mark.parametrize("file", ["config.yaml", "manifest.json"])
def test_a_half_written_folder_is_mended(file: str) -> None:
    run = make()
    run.prepare()
    whole = (run.folder / file).read_text()
    (run.folder / file).write_text(whole[: len(whole) // 2])
    run.prepare()
    assert Run.load(run.folder) == run
    assert json.loads((run.folder / "manifest.json").read_text())["hash"] == run.hash


def test_an_edited_config_is_refused() -> None:
    run = make()
    run.prepare()
    path = run.folder / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config["recipe"]["tokens"] = 49
    path.write_text(yaml.safe_dump(config))
    with pytest.raises(UserError, match=rf"config\.yaml: describes run \w+, not {run.hash}"):
        Run.load(run.folder)
    assert saved_runs() == []


@pytest.mark.slow
def test_saved_runs_are_found_by_hash_name_and_encoder() -> None:
    dino, again, clip = make(), make(seed=1), make("mini-clip")
    for run in (dino, again, clip):
        run.prepare()
    assert {run.hash for run in saved_runs()} == {dino.hash, again.hash, clip.hash}
    assert saved_run(clip.hash) == saved_run(clip.hash[:8]) == saved_run(clip.name) == clip
    assert saved_run("mini-clip") == clip
    with pytest.raises(UserError, match="'mini-dino' is 2 runs"):
        saved_run("mini-dino")
    with pytest.raises(UserError, match=r"Did you mean 'mini-clip'\?"):
        saved_run("mini-clap")


@pytest.mark.parametrize("seed", [-1, 1.5, "0", True])
def test_a_seed_is_a_whole_number(seed: Any) -> None:
    with pytest.raises(UserError, match=f"^seed {seed!r}: give a whole number, 0 or more"):
        Run.of("mini-dino", seed=seed)

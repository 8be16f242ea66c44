"""A run is held to the content of what it was trained on, and data made by older code are told of."""

from __future__ import annotations

import os
from pathlib import Path

import made_runs
import pytest
from heard import Heard

from mllm_eval import storage
from mllm_eval.catalog import ConversationData, load_encoder, load_llm, load_recipe
from mllm_eval.errors import UserError
from mllm_eval.pipeline import sources
from mllm_eval.report import comparison, render
from mllm_eval.results import read_run
from mllm_eval.run import Run
from mllm_eval.storage import known_sha256, sha256_bytes
from mllm_eval.train import hold_to_its_data


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run that learns from a.jsonl, then from b.jsonl."""
    monkeypatch.setenv("MLLM_EVAL_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("MLLM_EVAL_DATA", str(tmp_path))
    recipe = load_recipe("mini")
    stages = {}
    for name, field in (("a", "stage1"), ("b", "stage2")):
        (tmp_path / f"{name}.jsonl").write_text(f'{{"id": "{name}"}}\n')
        data = [ConversationData(path=f"data:{name}.jsonl", images="data:images")]
        stages[field] = getattr(recipe, field).model_copy(update={"data": data})
    digests = {"encoder": "e" * 64, "llm": "f" * 64}
    return Run(load_encoder("mini-dino"), recipe.model_copy(update=stages), load_llm("mini-llama"), 0, digests)


def test_a_run_notes_what_it_learns_from_and_refuses_anything_else(run: Run, tmp_path: Path) -> None:
    name = run.hash
    hold_to_its_data(run)
    noted = run.manifest()["trained_on"]
    assert noted["data:a.jsonl"] == {"size": 12, "sha256": sha256_bytes(b'{"id": "a"}\n')}
    assert list(noted) == ["data:a.jsonl", "data:b.jsonl"] and run.hash == name
    run.prepare()
    assert run.manifest()["trained_on"] == noted
    hold_to_its_data(run)
    step(run)
    (tmp_path / "b.jsonl").write_text('{"id": "B"}\n')
    with pytest.raises(UserError, match=rf"b\.jsonl: 12 bytes of SHA-256 .*{name} was trained on 12 bytes of .*delete"):
        hold_to_its_data(run)
    (tmp_path / "b.jsonl").write_text('{"id": "b"}\n')
    hold_to_its_data(run)
    (tmp_path / "a.jsonl").unlink()
    hold_to_its_data(run)


def test_a_run_from_before_is_not_judged(run: Run, tmp_path: Path) -> None:
    run.prepare()
    step(run)
    hold_to_its_data(run)
    assert "trained_on" not in run.manifest()


def test_a_file_may_be_mended_until_a_step_is_done(run: Run, tmp_path: Path) -> None:
    hold_to_its_data(run)
    run.stage_dir(1).mkdir()
    (run.stage_dir(1) / "log.jsonl").write_text("")
    (tmp_path / "a.jsonl").write_text('{"id": "mended"}\n')
    hold_to_its_data(run)
    noted = run.manifest()["trained_on"]["data:a.jsonl"]
    assert noted == {"size": 17, "sha256": sha256_bytes(b'{"id": "mended"}\n')}
    step(run)
    (tmp_path / "a.jsonl").write_text('{"id": "a"}\n')
    with pytest.raises(UserError, match=r"a\.jsonl: 12 bytes .* was trained on 17 bytes"):
        hold_to_its_data(run)


@pytest.mark.parametrize("done", ["checkpoint", "stage1/projector.safetensors", "stage2/checkpoints/checkpoint-5"])
def test_what_was_trained_is_held_to_its_data_without_a_log(run: Run, tmp_path: Path, done: str) -> None:
    hold_to_its_data(run)
    (run.folder / done).mkdir(parents=True)
    (tmp_path / "a.jsonl").write_text('{"id": "other"}\n')
    with pytest.raises(UserError, match="was trained on"):
        hold_to_its_data(run)


@pytest.mark.slow
def test_a_table_says_when_rows_were_trained_on_different_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLLM_EVAL_RESULTS", str(tmp_path))
    one, two = (made_runs.make_run(name, benchmarks=["gqa"]) for name in ("mini-dino", "mini-clip"))
    for run, rows in ((one, 8298), (two, 8298)):
        run.note_training_data({"data:x.jsonl": {"size": rows, "sha256": f"{rows:064d}"}})
    table = comparison([read_run(one.folder), read_run(two.folder)])
    assert not any("different data" in note for note in table.notes)
    assert len({row.facts["data_hash"] for row in table.rows}) == 1
    two.note_training_data({"data:x.jsonl": {"size": 400, "sha256": f"{400:064d}"}})
    table = comparison([read_run(one.folder), read_run(two.folder)])
    (note,) = [note for note in table.notes if "different data" in note]
    assert f"data:x.jsonl was 8,298 bytes of SHA-256 000000000000 for mini-dino [{one.hash}]; 400 bytes" in note
    assert len({row.facts["data_hash"] for row in table.rows}) == 2
    assert "Trained on different data: data:x.jsonl was 8,298 bytes" in render(table, "md")


def test_a_file_is_read_again_only_when_it_was_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "big.jsonl"
    path.write_bytes(b"one")
    reads: list[Path] = []
    read = storage.sha256_file
    monkeypatch.setattr(storage, "sha256_file", lambda path: (reads.append(path), read(path))[1])
    assert known_sha256(path) == known_sha256(path) == sha256_bytes(b"one")
    assert len(reads) == 1
    path.write_bytes(b"two")
    os.utime(path, ns=(1, 1))
    assert known_sha256(path) == sha256_bytes(b"two") and len(reads) == 2
    note = tmp_path / ".big.jsonl.sha256"
    note.write_bytes(b"\xff\xfe")
    assert known_sha256(path) == sha256_bytes(b"two")
    note.write_text("no note")
    assert known_sha256(path) == sha256_bytes(b"two") and len(reads) == 4
    with pytest.raises(UserError, match=r"gone\.jsonl: cannot be read"):
        known_sha256(tmp_path / "gone.jsonl")


def step(run: Run) -> None:
    """What a first step leaves."""
    run.stage_dir(1).mkdir(parents=True, exist_ok=True)
    (run.stage_dir(1) / "log.jsonl").write_text('{"step": 1}\n')


def test_data_of_older_code_are_told_of_and_not_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLLM_EVAL_DATA", str(tmp_path))
    source = sources.MadeFolder(make=f"{__name__}:made", whole="VERSION", version=f"{__name__}:version")
    monkeypatch.setattr(sources, "sources", lambda: {"mini": source})
    wanted, listener = [tmp_path / "mini"], Heard()
    assert sources.provide(wanted, listener)
    assert not sources.provide(wanted, listener) and listener.said == ["data: mini"]
    (tmp_path / "mini" / "VERSION").write_text("old\n")
    assert not sources.provide(wanted, listener)
    assert "made by another version of this code; `mllm-eval data` makes it anew" in listener.said[-1]
    assert (tmp_path / "mini" / "VERSION").read_text() == "old\n"
    assert sources.provide(wanted, listener, check=True)
    assert (tmp_path / "mini" / "VERSION").read_text() == "new\n"


def version() -> str:
    return "new"


def made(home: Path, _: object) -> None:
    (home / "mini").mkdir(exist_ok=True)
    (home / "mini" / "VERSION").write_text("new\n")

"""Runs keep their names and finished runs their tables: what an earlier version wrote reads the same, byte for byte.

`pinned/hashes.json` are run hashes, `stored_runs.jsonl` is the content of results/runs as an earlier version left it
(made-up scores of two encoders with their blind answers, of an external model, and of imported answers), and the other
files of `pinned` are what the command line said of these. A hash changes only where its number may change; a table
only where a line under "Scores" in CHANGELOG.md says why.
"""

from __future__ import annotations

from pathlib import Path

import opened
import pytest
from places import TESTS
from typer.testing import CliRunner

from mllm_eval.catalog import Weights, load_encoder, load_llm, load_recipe, names
from mllm_eval.cli.app import app
from mllm_eval.external import ExternalModel
from mllm_eval.imported import Imported
from mllm_eval.run import Run
from mllm_eval.storage import read_json, read_jsonl, write_json

HASHES = read_json(TESTS / "pinned" / "hashes.json")
TWO = ("--runs", "mini-dino,mini-random")
SHOWN = {
    "table.md": ("table", *TWO, "--blind", "--intervals", "--format", "md"),
    "table.tex": ("table", *TWO, "--blind", "--intervals", "--format", "tex"),
    "table.html": ("table", *TWO, "--baseline", "mini-random", "--format", "html"),
    "table.csv": ("table", *TWO, "--blind", "--format", "csv"),
    "all.md": ("table", "--format", "md"),
    "robust.csv": ("table", "--rules", "robust", "--format", "csv"),
    "cost.csv": ("table", *TWO, "--cost", "--format", "csv"),
    "gain.md": ("table", *TWO, "--gain", "--format", "md"),
    "details.csv": ("table", "--details", "--format", "csv"),
    "external.md": ("table", "--runs", "some-vlm,their-vlm", "--cost", "--format", "md"),
    "offshelf.csv": ("table", "offshelf", *TWO, "--format", "csv"),
    "power.md": ("stats", "power", "mini-dino", "mini-random", "--format", "md"),
}


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with the stored runs."""
    return unpack(tmp_path_factory.mktemp("results"))


def unpack(home: Path) -> Path:
    for line in read_jsonl(TESTS / "stored_runs.jsonl"):
        path = home / "runs" / line["path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(line["text"], encoding="utf-8")
    return home


@pytest.mark.slow
@pytest.mark.parametrize("name", SHOWN)
def test_stored_runs_give_the_same_bytes(name: str, stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLLM_EVAL_RESULTS", str(stored))
    # Some of their samples failed; earlier versions said so only in the footnote.
    monkeypatch.setenv("MLLM_EVAL_FAILED", "100%")
    shown = CliRunner().invoke(app, SHOWN[name], catch_exceptions=False)
    assert shown.exit_code == 0, shown.output
    assert shown.stdout == (TESTS / "pinned" / name).read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ("table", *TWO, "--blind", "--cost", "--gain"),
        ("table",),
        ("table", "--details"),
        ("table", "offshelf", *TWO),
        ("stats", "power", "mini-dino", "mini-random"),
        ("stats", "scaling", "params"),
        ("report", "--no-images"),
        ("show", "mini-dino"),
        ("diff", "mini-dino", "mini-random"),
    ],
    ids=" ".join,
)
def test_a_command_opens_each_file_of_a_run_once(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Files of its own: of others this process may know the content.
    monkeypatch.setenv("MLLM_EVAL_RESULTS", str(unpack(tmp_path / "results")))
    # No data: a report shows answers without their questions.
    monkeypatch.setenv("MLLM_EVAL_DATA", str(tmp_path))
    out = ("--out", str(tmp_path / "site")) if words[0] == "report" else ()
    with opened.opened() as counts:
        done = CliRunner().invoke(app, (*words, *out), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    of_runs = {path: count for path, count in opened.configs(counts).items() if "/runs/" in path}
    assert len(of_runs) == 4 and set(opened.configs(counts).values()) == {1}
    assert len(opened.summaries(counts)) >= 16 and set(opened.summaries(counts).values()) == {1}
    if words[0] in ("table", "stats"):
        assert set(opened.score_lines(counts).values()) <= {1}


@pytest.mark.slow
@pytest.mark.parametrize(
    "words", [("table", "--details"), ("report", "--no-images"), ("show", "mini-dino")], ids=" ".join
)
def test_scores_of_versions_that_counted_no_answers_are_read_once_too(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = unpack(tmp_path / "results")
    for path in results.glob("runs/*/scores/*.json"):
        summary = read_json(path)
        assert summary.pop("given")
        write_json(path, summary)
    monkeypatch.setenv("MLLM_EVAL_RESULTS", str(results))
    monkeypatch.setenv("MLLM_EVAL_DATA", str(tmp_path))
    out = ("--out", str(tmp_path / "site")) if words[0] == "report" else ()
    with opened.opened() as counts:
        done = CliRunner().invoke(app, (*words, *out), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert set(opened.score_lines(counts).values()) == {1}


@pytest.mark.parametrize("encoder", ["mini-dino", "mini-clip", "mini-random"])
@pytest.mark.parametrize("seed", [0, 1])
def test_runs_of_the_miniature_keep_their_names(encoder: str, seed: int) -> None:
    assert Run.of(encoder, "mini", seed=seed).hash == HASHES["miniature"][f"{encoder}-s{seed}"]


@pytest.mark.parametrize("recipe", names("recipes"))
def test_recipes_and_their_runs_keep_their_names(recipe: str) -> None:
    """Of all encoders, with digests that stand in for weights that are not here."""
    pinned = HASHES["recipes"][recipe]
    chosen = load_recipe(recipe)
    llm, digests = load_llm(chosen.llm), {"encoder": "e" * 64, "llm": "f" * 64}
    found = {name: Run(load_encoder(name, chosen), chosen, llm, chosen.seed, digests).hash for name in pinned["runs"]}
    assert (chosen.hash, found) == (pinned["hash"], pinned["runs"])


def test_external_models_and_imported_answers_keep_their_names() -> None:
    weights = Weights(repo="owner/some-vlm", revision="1" * 40)
    found = {
        f"{data}, {dtype}, {batch}": ExternalModel("some-vlm", weights, data, dtype, batch, digest="0" * 64).hash
        for data, dtype, batch in (("mini", "float32", 1), ("hub", "bfloat16", 8))
    }
    found["imported"] = Imported.of("their-vlm", "mini").hash
    assert found == HASHES["external"]

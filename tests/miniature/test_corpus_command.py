"""The command `mllm-eval miniature corpus`: the list of pictures by true labels, and by a model's answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mllm_eval.cli import filtering
from mllm_eval.cli.app import app
from mllm_eval.miniature import textrich
from mllm_eval.miniature.textrich import KEYS, true_keys


@pytest.fixture(autouse=True)
def few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A corpus of 24 pictures."""
    monkeypatch.setenv("MLLM_EVAL_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("MLLM_EVAL_DATA", str(tmp_path / "data"))
    whole_build, whole_keys = textrich.build, textrich.true_keys
    monkeypatch.setattr(textrich, "build", lambda: whole_build(tmp_path / "data/corpus", pictures=24))
    monkeypatch.setattr(textrich, "true_keys", lambda level: whole_keys(level, 24))


def corpus(*options: str) -> list[str]:
    done = CliRunner().invoke(app, ["miniature", "corpus", *options])
    assert done.exit_code == 0, done.output
    return done.stdout.splitlines()


@pytest.mark.slow
def test_the_list_is_that_of_the_labels_or_of_a_models_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, folder = corpus("--level", "heavy")
    assert len(list(Path(place).glob("*.tar"))) >= 1
    expected = list(true_keys("heavy", 24))
    assert (Path(folder) / KEYS).read_text().split() == expected and len(expected) == 6

    def answered(images: Path, model: str, level: str, out: Path, label: str) -> None:
        assert (str(images), model, level, label) == (place, "HASH", "light", "text")
        (out / "kept").mkdir(parents=True)
        (out / "kept/00000.tar.txt").write_text("sign-000001\nchart-000000\n")

    told: Any = answered
    monkeypatch.setattr(filtering, "filter_", told)
    folder = corpus("--level", "light", "--model", "HASH")[-1]
    assert sorted((Path(folder) / KEYS).read_text().split()) == ["chart-000000", "sign-000001"]
    done = CliRunner().invoke(app, ["miniature", "corpus", "--level", "hevy"])
    assert done.exit_code == 2 and "Did you mean 'heavy'" in done.stderr

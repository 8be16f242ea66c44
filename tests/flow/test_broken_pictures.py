"""Pictures of a benchmark that can't be decoded: found by `data`, told before training, counted as failed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from own_benchmark import command, evaluate, summary, the_run

from mllm_eval.data import survey
from mllm_eval.pipeline import flow


def spoil(home: Path, name: str = "3.png") -> Path:
    """Cut a picture short behind its header."""
    path = home / "data/mine/images" / name
    path.write_bytes(path.read_bytes()[:50])
    return path


@pytest.mark.slow
def test_data_names_a_broken_picture_and_fails(own_home: Path) -> None:
    path = spoil(own_home)
    for _ in range(2):  # found, and remembered
        done = command("data", "own", "--data", "mine")
        assert done.exit_code == 2
        assert "own: 1 of 6 images can't be decoded: " in done.output
        assert f"questions.csv row 4, {path}" in done.output and "mend or replace" in done.output
    shutil.copyfile(own_home / "data/mine/images/2.png", path)
    assert command("data", "own", "--data", "mine").exit_code == 0


@pytest.mark.slow
def test_eval_tells_of_a_broken_picture_before_it_trains(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(the_run().folder)
    path = spoil(own_home)

    def no_training(*_: Any, **__: Any) -> None:
        raise RuntimeError("training begins")

    monkeypatch.setattr(flow, "train", no_training)
    done = command("eval", "tiny-dinov2", "--recipe", "own", "--benchmarks", "own")
    assert str(done.exception) == "training begins"
    assert str(path) in done.output and "1 of 6 images can't be decoded" in done.output


@pytest.mark.slow
def test_a_picture_that_breaks_later_makes_its_samples_failed(own_home: Path) -> None:
    path = own_home / "data/mine/images/3.png"
    whole = path.read_bytes()
    spoil(own_home)
    for _ in range(2):  # the second time there is nothing new to be had
        done = command("eval", "tiny-dinov2", "--recipe", "own", "--benchmarks", "own")
        assert done.exit_code == 1 and "complete" not in done.output
        assert "own: 2 of 12 samples failed" in done.output and str(path) in done.output
        assert "10/12 answers scored" in done.output
        assert summary()["n_failed"] == 2
        assert "answered 1 benchmarks, 2 samples failed" in command("ls").output
    path.write_bytes(whole)
    assert "10/12" not in command("eval", "tiny-dinov2", "--recipe", "own", "--benchmarks", "own").output
    assert summary()["n_failed"] == 0


@pytest.mark.slow
def test_pictures_are_decoded_once_and_not_where_nothing_is_left(
    own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[bytes] = []
    tag = survey.orientation_tag
    monkeypatch.setattr(survey, "orientation_tag", lambda data: (looked.append(data), tag(data))[1])
    evaluate()
    shutil.rmtree(the_run().folder / "answers")
    evaluate()
    assert looked == []  # they were looked at before the run was trained

"""Training images that a folder of images holds, too: found by content, listed with both names, made once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from soft_pictures import KINDS, picture, tarred, training_set, written
from tiny_models import make_recipe
from typer.testing import CliRunner

from mllm_eval.catalog import load_encoder
from mllm_eval.cli.app import app
from mllm_eval.cli.leaks import overlap_lines
from mllm_eval.errors import UserError
from mllm_eval.leaks import confirming, hashing, overlap
from mllm_eval.leaks.findings import Overlapping, overlaps_of
from mllm_eval.leaks.overlap import find_overlap

COPIED = {"recompressed": 2, "resized": 5}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLLM_EVAL_RESULTS", str(tmp_path / "results"))
    training_set(tmp_path, {f"own{number}.png": picture(number) for number in range(12)})
    (tmp_path / "laion").mkdir()
    for kind, number in COPIED.items():
        KINDS[kind](picture(number)).save(tmp_path / "laion" / f"{kind}.png")
    for number in range(6):
        picture(2000 + number).save(tmp_path / "laion" / f"else{number}.png")
    return tmp_path


def compared(home: Path, place: str = "laion") -> Overlapping:
    recipe = make_recipe(home / "train.jsonl", home / "images")
    return find_overlap(recipe, home / place, load_encoder("mini-dino"))


def names(found: Overlapping) -> set[tuple[str, str]]:
    return {(pair["image"], pair["other"]) for pair in found.pairs()}


@pytest.mark.slow
def test_training_images_in_a_folder_are_counted_and_listed_and_no_others(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Several blocks of each search give what one gives.
    monkeypatch.setattr(overlap, "SEARCHED", 5)
    monkeypatch.setattr(overlap, "CONFIRMED", 1)
    found = compared(home)
    one = found.counts
    assert (one.images, one.others, one.pairs, one.copied) == (12, 8, 2, 2)
    assert names(found) == {(f"own{number}.png", f"{kind}.png") for kind, number in COPIED.items()}
    for pair in found.pairs():
        assert pair["where"].startswith(f"{home / 'train.jsonl'}:")
        assert pair["other_where"] == str(home / "laion" / pair["other"])
        for key in ("picture_thumb", "image_thumb"):
            assert Image.open(found.folder / "thumbs" / pair[key]).size
    assert [own.counts for own in overlaps_of(make_recipe(home / "train.jsonl", home / "images"))] == [one]
    assert "2 training images" in " ".join(overlap_lines(found))


@pytest.mark.slow
def test_a_shard_is_compared_as_a_folder_is_and_what_cannot_be_read_is_counted(home: Path) -> None:
    files = {path.name: path.read_bytes() for path in sorted((home / "laion").iterdir())}
    (home / "shards").mkdir()
    (home / "shards" / "0.tar").write_bytes(tarred({**files, "broken.png": b"no picture"}))
    (home / "images" / "own7.png").write_bytes(b"no picture")
    found = compared(home, "shards")
    assert names(found) == {(f"own{number}.png", f"0.tar/{kind}.png") for kind, number in COPIED.items()}
    assert (found.counts.broken_images, found.counts.broken_others) == (1, 1)
    said = " ".join(overlap_lines(found))
    assert "own7.png" in said
    assert "broken.png" in said


@pytest.mark.slow
def test_a_second_comparison_computes_nothing_and_a_changed_folder_is_compared_again(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = compared(home)

    def refuse(*_: Any) -> Any:
        raise AssertionError("was computed already")

    with monkeypatch.context() as never:
        for room, name in ((hashing, "hash_of"), (overlap, "nearest"), (confirming.SummaryEncoder, "summaries")):
            never.setattr(room, name, refuse)
        assert compared(home) == first
    written(home / "laion" / "resized.png", picture(9))
    assert names(compared(home)) == {("own2.png", "recompressed.png"), ("own9.png", "resized.png")}


@pytest.mark.slow
def test_a_killed_comparison_goes_on_and_ends_with_the_same(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlap, "SEARCHED", 5)
    monkeypatch.setattr(overlap, "CONFIRMED", 1)
    whole = (compared(home).folder / "pairs.jsonl").read_bytes()
    monkeypatch.setenv("MLLM_EVAL_RESULTS", str(home / "again"))
    confirmed, count = overlap.confirm_pairs, 0

    def killed(*given: Any) -> np.ndarray:
        nonlocal count
        count += 1
        if count == 2:
            raise KeyboardInterrupt
        return confirmed(*given)

    monkeypatch.setattr(overlap, "confirm_pairs", killed)
    with pytest.raises(KeyboardInterrupt):
        compared(home)
    assert overlaps_of(make_recipe(home / "train.jsonl", home / "images")) == []
    assert (compared(home).folder / "pairs.jsonl").read_bytes() == whole
    assert count == 3


@pytest.mark.slow
def test_nothing_in_common_is_no_pair(home: Path) -> None:
    for name in COPIED:
        (home / "laion" / f"{name}.png").unlink()
    found = compared(home)
    assert (found.counts.pairs, found.counts.copied, found.counts.candidates) == (0, 0, 0)
    assert list(found.pairs()) == []


def test_missing_training_data_are_told_before_a_folder_is_hashed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[str] = []
    monkeypatch.setattr(overlap, "hashed_source", lambda one, *_: hashed.append(str(one)))
    recipe = make_recipe(home / "train.jsonl", home / "images")
    (home / "train.jsonl").unlink()
    with pytest.raises(UserError, match=r"train\.jsonl"):
        find_overlap(recipe, home / "laion", load_encoder("mini-dino"))
    assert hashed == []


@pytest.mark.slow
def test_the_command_prints_the_counts(home: Path) -> None:
    recipe = make_recipe(home / "train.jsonl", home / "images")
    path = home / f"{recipe.name}.yaml"
    path.write_text(yaml.safe_dump(json.loads(recipe.model_dump_json())))
    asked = ["leaks", str(path), "--against", str(home / "laion")]
    shown = CliRunner().invoke(app, [*asked, "--json"])
    assert shown.exit_code == 0, shown.output
    assert json.loads(shown.stdout)["copied"] == 2
    text = CliRunner().invoke(app, asked)
    assert "confirms 2, of 2 training images" in text.stdout

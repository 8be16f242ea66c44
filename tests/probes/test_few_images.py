"""Probes of very few training images, and of training images that are all unusable: refused in one line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import made_probes
import numpy as np
import pytest
from PIL import Image
from tiny_models import make_encoder

from mllm_eval.errors import UserError
from mllm_eval.pipeline.probeflow import trouble_words
from mllm_eval.probes.dense import Crops, unusable_crops
from mllm_eval.probes.keeping import reasons, told_reasons
from mllm_eval.probes.logistic import measure as logistic
from mllm_eval.probes.measuring import Measurement, measure
from mllm_eval.results.probed import UNUSABLE, probes_home


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLLM_EVAL_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("MLLM_EVAL_DATA", str(tmp_path / "data"))


def job(tmp_path: Path, name: str, **changes: Any) -> Measurement:
    protocol = made_probes.protocol(name, tmp_path / "sets").model_copy(update=changes)
    return Measurement(
        make_encoder(tmp_path / "encoder"), protocol, "small", Path(str(protocol.pin("small").folder)), None
    )


def leave(folder: Path, count: int) -> None:
    for path in sorted(folder.iterdir())[count:]:
        path.unlink()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "maps", "size"),
    [("ade20k_linear", "annotations/training", (32, 40)), ("nyu_linear1", "sync/den", (30, 40))],
)
def test_fewer_images_than_a_batch_that_are_all_unusable_are_refused(
    name: str, maps: str, size: tuple[int, int], tmp_path: Path
) -> None:
    made_probes.protocol(name, tmp_path / "sets")
    place = tmp_path / "sets" / name.partition("_")[0]
    if name.startswith("ade"):
        for part in ("images", "annotations"):
            leave(place / part / "training", 3)
    else:
        lines = (place / "nyu_train.txt").read_text().splitlines(keepends=True)
        (place / "nyu_train.txt").write_text("".join(lines[:3]))
    for path in (place / maps).glob("*.png"):
        if "rgb" not in path.name:
            Image.fromarray(np.zeros(size, np.uint8)).save(path)
    with pytest.raises(UserError, match=r"step 0: none of its 3 training images can be used; the first: .*png: "):
        measure(job(tmp_path, name))


def test_a_crop_that_one_group_can_use_is_enough() -> None:
    none, some = Crops(None, None, {"a": "why"}), Crops(np.zeros(1), np.zeros(1), {"b": "so"})  # type: ignore[arg-type]
    assert unusable_crops([none, none]) == ({"a": "why"}, False)
    assert unusable_crops([none, some]) == ({"a": "why", "b": "so"}, True)
    assert unusable_crops([]) == ({}, False)


def test_reasons_are_kept_as_they_are() -> None:
    for of in ({}, {"a\tb": "two\nlines", "\u00e9": "x"}):
        assert told_reasons(reasons(of)) == of


@pytest.mark.slow
def test_a_hold_out_that_takes_every_training_image_is_refused(tmp_path: Path) -> None:
    asked = job(tmp_path, "in1k_linear")
    for name in ("n02", "n03"):
        leave(asked.place / "train" / name, 0)
    leave(asked.place / "train/n01", 1)
    with pytest.raises(
        UserError, match="of 1 training images 1 are held out to choose a head, none is left to train on"
    ):
        measure(asked)
    train, _ = job(tmp_path, "in1k_linear").examples
    with pytest.raises(UserError, match="none is left to train on"):
        train.split(0.25, 0)


@pytest.mark.slow
def test_every_image_that_fails_is_named_in_a_file(tmp_path: Path) -> None:
    asked = job(tmp_path, "in1k_knn", neighbours=[1])
    made_probes.imagenet(tmp_path / "more", val=9)
    for path in (tmp_path / "more/val").rglob("*.png"):
        if path.name.rpartition("_")[2] != "0.png":
            path.write_bytes(b"no picture")
    (tmp_path / "more/train/n03/n03_1.png").write_bytes(b"no picture")
    found = measure(replace(asked, place=tmp_path / "more"))
    assert (found.n_failed, found.n_left_out, len(found.failed), len(found.left_out)) == (24, 1, 20, 1)
    file = probes_home() / replace(asked, place=tmp_path / "more").hash / UNUSABLE
    every = json.loads(file.read_text())
    assert len(every["failed"]) == 24 and all("can't be decoded" in why for why in every["failed"].values())
    assert every["left_out"] == found.left_out and list(every["failed"])[:20] == list(found.failed)
    assert trouble_words(found, file)[-1] == f"in1k_knn: all of them, with the reasons: {file}"
    assert not any("all of them" in line for line in trouble_words(found, tmp_path / "older.json"))
    assert measure(asked).n_failed == 0 and not (asked.folder / UNUSABLE).exists()


class Rows:
    """Summaries of examples that are all readable, as logistic regression reads them."""

    layers = (1,)

    def __init__(self, examples: Any) -> None:
        self.broken: dict[str, str] = {}
        self.places = np.arange(len(examples))

    def __len__(self) -> int:
        return len(self.places)


def test_a_hold_out_that_takes_the_only_image_of_a_class_is_refused(tmp_path: Path) -> None:
    asked = job(tmp_path, "in1k_logreg")
    (train, test), protocol = asked.examples, asked.protocol
    # The order is fixed by the seed: the first of it are held out.
    held = int(np.random.default_rng([protocol.seed, 1]).permutation(8)[0])
    alike = [one._replace(label=int(at == held)) for at, one in enumerate(train[:8])]
    few = type(train)(alike, ["a", "b"])  # type: ignore[arg-type]
    with pytest.raises(UserError, match="without the 2 held out, the training images are of fewer than two classes"):
        logistic(protocol, Rows, few, test, [(1,)])  # type: ignore[arg-type]

"""A benchmark and an encoder in memory: frames and features, and what is refused there."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from own_benchmark import SCORER, YAML
from PIL import Image
from tiny_models import make_encoder, make_image

from mllm_eval import UserError, load_encoder, sample_frame, score
from mllm_eval.adapters import load_encoder_model
from mllm_eval.data.samples import ImageRef


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A benchmark of four questions on two pictures."""
    pictures = tmp_path / "data/mine/images"
    pictures.mkdir(parents=True)
    for number in range(2):
        Image.new("RGB", (28, 14), (100 * number, 90, 200)).save(pictures / f"{number}.png")
    with (tmp_path / "data/mine/questions.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "question", "answer"])
        table.writerows([f"{n % 2}.png", f"What is the number {n}?", ["red", "blue"][n % 2]] for n in range(4))
    folder = tmp_path / "benchmarks/own"
    folder.mkdir(parents=True)
    (folder / "benchmark.yaml").write_text(YAML)
    (folder / "own.py").write_text(SCORER)
    monkeypatch.setenv("MLLM_EVAL_PATH", str(tmp_path))
    monkeypatch.setenv("MLLM_EVAL_DATA", str(tmp_path / "data"))
    return tmp_path


def test_a_frame_has_every_sample() -> None:
    frame = sample_frame("own", "mine")
    assert list(frame.columns) == ["id", "question", "gold", "images", "group", "cluster", "record"]
    assert frame.id.tolist() == ["0", "1", "2", "3"] and frame.gold.tolist() == ["red", "blue"] * 2
    assert frame.question[2] == "What is the number 2?\nAnswer in a word." and frame.cluster.nunique() == 2
    assert frame.images[1][0].load().size == (28, 14) and frame.record[3]["answer"] == "blue"
    assert sample_frame("own", "mine", "blind").images.map(len).tolist() == [0] * 4


def test_a_frame_is_scored_as_a_mapping_is() -> None:
    frame = sample_frame("own", "mine").assign(prediction=["red", "red", "", np.nan])
    scored = score("own", frame, data="mine")
    assert (scored.summary.value, scored.summary.n, scored.summary.n_failed) == (50, 4, 2)
    assert scored.scores.score[:2].tolist() == [1, 0] and scored.scores.score[2:].isna().all()
    answers = {"0": "red", "1": "red", "2": None, "3": pd.NA}
    assert score("own", answers, data="mine").summary == scored.summary
    assert score("own", frame.iloc[::-1], data="mine").summary == scored.summary
    some = score("own", {"3": "blue"}, data="mine", partial=True)
    assert some.summary.partial and some.scores.id.tolist() == ["3"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda frame: frame.rename(columns={"prediction": "predictions"}), "'prediction' is missing. Did you mean"),
        (lambda frame: frame.drop(columns="id"), "column 'id' is missing"),
        (lambda frame: frame.iloc[:0], "answers to own: no answers in it"),
        (lambda frame: frame.iloc[:3], r"3 answers to 4 samples.*first: '3'.*--partial"),
        (lambda frame: pd.concat([frame, frame.iloc[:1]]), r"row 4: id '0' occurs twice \(first at .* row 0\)"),
        (lambda frame: frame.assign(id=["0", "1", "2", "9"]), "row 3: own has no sample '9'"),
        (lambda frame: frame.assign(id=["0", "1", "2", None]), "row 3: field 'id'"),
        (lambda frame: frame.assign(gold=frame.gold.iloc[::-1].tolist()), "row 0: .*gold answer"),
        (lambda frame: frame.assign(question=frame.question.iloc[::-1].tolist()), "row 0: .*question"),
        (lambda frame: frame.assign(prediction=1), "row 0: field 'prediction' is int, expected a string"),
        (lambda frame: pd.concat([frame, frame.id], axis=1), "stands in the frame twice"),
    ],
)
def test_what_would_move_a_score_unseen_is_refused(change: Any, message: str) -> None:
    frame = sample_frame("own", "mine").assign(prediction="red")
    with pytest.raises(UserError, match=message):
        score("own", change(frame), data="mine")


@pytest.mark.slow
def test_names_are_held_to_what_there_is() -> None:
    with pytest.raises(UserError, match=r"unknown benchmark 'owm'\. Did you mean 'own'"):
        sample_frame("owm", "mine")
    with pytest.raises(UserError, match="own has no data pin 'mini'"):
        score("own", {"0": "red"})
    with pytest.raises(UserError, match="robust"):
        score("own", {"0": "red"}, "robust", data="mine")


@pytest.mark.slow
def test_images_are_encoded_as_a_model_encodes_them(home: Path) -> None:
    encoder = make_encoder(home / "weights/tiny")
    path = home / "configs/encoders" / f"{encoder.name}.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(yaml.safe_dump(encoder.model_dump(mode="json", exclude_none=True)))
    picture, file = make_image(3), home / "data/mine/images/1.png"
    model = load_encoder_model(encoder)
    wanted = [torch.from_numpy(model.preprocess(one))[None] for one in (picture, Image.open(file))]
    for source in (encoder.name, path, encoder, encoder.model_dump(mode="json")):
        loaded = load_encoder(source, device="cpu")
        found = loaded.features([picture, file, str(file)], layers=[1, -1], batch=2)
        assert len(found) == 2 and found[0].patches.shape[0] == found[1].summary.shape[0] == 3
        for at, pixels in zip((0, 1, 2), (*wanted, wanted[1]), strict=True):
            for layer, one in zip(found, model(pixels, [1, -1]), strict=True):
                torch.testing.assert_close(layer.patches[at], one.patches[0])
                torch.testing.assert_close(layer.summary[at], one.summary[0])
    one = loaded.encode(file)
    assert one.shape == (1, 16, 32) and (loaded.tokens, loaded.width) == (16, 32)
    torch.testing.assert_close(one, found[1].patches[1:2].flatten(1, 2))
    assert loaded.encode([picture] * 3).shape == (3, 16, 32) and loaded.preprocess(picture).shape == (3, 28, 28)
    assert repr(loaded).startswith("<encoder tiny-dinov2: ") and "16 tokens of 32, float32 on cpu" in repr(loaded)


def encoded() -> bytes:
    file = io.BytesIO()
    make_image(3).save(file, "PNG")
    return file.getvalue()


def test_images_and_layers_come_in_any_form(home: Path) -> None:
    loaded = load_encoder(make_encoder(home / "weights/tiny"), device="cpu")
    images = [make_image(number).resize((20 + number, 40)) for number in range(3)]
    wanted = loaded.features(images, layers=[1, -1], batch=2)
    # Layers of a generator hold for every batch.
    made = loaded.features(iter(images), layers=iter([1, -1]), batch=np.int64(2))  # type: ignore[arg-type]
    assert [one.patches.tolist() for one in made] == [one.patches.tolist() for one in wanted]
    (only,) = loaded.features(pd.Series(images), layers=1, batch=2)
    torch.testing.assert_close(only.patches, wanted[0].patches, rtol=0, atol=0)
    reference = ImageRef("0" * 64, lambda: images[0])
    torch.testing.assert_close(loaded.encode(reference), loaded.encode(images[0]), rtol=0, atol=0)
    torch.testing.assert_close(loaded.encode((reference, reference)), loaded.encode([images[0]] * 2), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 0}, "^batch 0: give 1 or more"),
        ({"batch": 1.5}, "^batch 1.5: give 1 or more"),
        ({"batch": "2"}, "^batch '2': give 1 or more"),
        ({"layers": "all"}, "^layer 'all': give the number of a block"),
        ({"layers": [1, 2.0]}, "^layer 2.0: give the number of a block"),
        ({"layers": [9]}, "there is no layer 9"),
    ],
)
def test_what_is_no_batch_or_layer_is_told(options: Any, message: str, home: Path) -> None:
    loaded = load_encoder(make_encoder(home / "weights/tiny"), device="cpu")
    with pytest.raises(UserError, match=message):
        loaded.features(make_image(3), **options)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "no images"),
        (["/nowhere.png"], "/nowhere.png: the image can't be read"),
        ([3], "^int is no image"),
        ([__file__], "test_frames.py: "),
        (None, "^NoneType is no image"),
        (b"GIF89a", "^bytes is no image"),
        (io.BytesIO(b"GIF89a"), "^BytesIO is no image"),
        ({"a": 1}, "^dict is no image"),
        (np.zeros((4, 4, 3), np.uint8), "^ndarray is no image; give a path or an image of Pillow"),
        (pd.DataFrame({"images": ["a.png"]}), "^DataFrame is no image"),
        (Image.new("RGB", (0, 5)), "^an image of 0 x 5 pixels shows nothing"),
        (Image.new("La", (5, 5)), r"^an image of Pillow \(mode La\) can't be decoded \(conversion from La"),
        (Image.open(io.BytesIO(encoded()[:60])), r"^an image of Pillow \(mode RGB\) can't be decoded \(image file"),
    ],
)
def test_what_is_no_image_is_told(images: Any, message: str, home: Path) -> None:
    loaded = load_encoder(make_encoder(home / "weights/tiny"), device="cpu")
    with pytest.raises(UserError, match=message):
        loaded.encode(images)


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        (3, {}, "^int is no encoder; give a name, a path to a yaml file, a dict"),
        ({"name": "x", "fmily": "dinov2"}, {}, r"the encoder given: unknown key 'fmily'\. Did you mean 'family'"),
        ({"base": "mini-dinno"}, {}, r"the encoder given: base 'mini-dinno' is neither.*Did you mean 'mini-dino'"),
        ({"base": "mini-dino", "width": "wide"}, {}, "the encoder given: width: "),
        ("mini-dino", {"device": "gpu"}, "device 'gpu' is not on this machine"),
        ("mini-dino", {"device": "meta:7:1"}, "device 'meta:7:1' is not on this machine"),
        ("mini-dino", {"dtype": "float31"}, r"dtype 'float31' is unknown\. Did you mean 'float32'"),
    ],
)
def test_what_is_no_encoder_is_told(given: Any, options: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_encoder(given, **options)


@pytest.mark.slow
def test_predictions_may_bring_their_records(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLLM_EVAL_DATA", str(tmp_path / "nothing"))
    rows = [{"id": n, "prediction": "red", "record": {"answer": said}} for n, said in enumerate(["red", "blue"])]
    scored = score("own", rows)
    assert scored.value == 50 and scored.scores.score.tolist() == [1, 0]
    shown = score("own", [{**rows[0], "prediction": "<b>"}])._repr_html_()
    assert "&lt;b&gt;" in shown and "<b>" not in shown and "own@cambrian" in shown
    for given in ("red", ["red"], 3):
        with pytest.raises(UserError, match=r"answers to own, row 0: is (str|int); an answer belongs to a sample"):
            score("own", given)

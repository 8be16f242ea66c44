"""`mllm-eval new encoder` writes a yaml that loads the weights it was written from, or says in one line why not."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from tiny_models import make_encoder, make_llm
from typer.testing import CliRunner

from mllm_eval.adapters import load_encoder_model
from mllm_eval.catalog import load_encoder
from mllm_eval.catalog.architecture import FORMS
from mllm_eval.cli.app import app

PROCESSOR = {
    "image_mean": [0.1, 0.2, 0.3],
    "image_std": [0.4, 0.5, 0.6],
    "resample": 2,
    "size": {"shortest_edge": 32},
    "crop_size": {"height": 28, "width": 28},
    "do_center_crop": True,
    "image_processor_type": "CLIPImageProcessor",
}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MLLM_EVAL_PATH", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def new(*words: str) -> Any:
    return CliRunner().invoke(app, ["new", "encoder", *words])


def process(folder: Path, **changes: Any) -> None:
    (folder / "preprocessor_config.json").write_text(json.dumps({**PROCESSOR, **changes}))


@pytest.mark.parametrize("family", sorted(FORMS))
def test_a_folder_of_each_family_becomes_a_yaml_that_loads_it(family: str, here: Path) -> None:
    made = make_encoder(here / "weights", family)
    process(here / "weights")
    done = new("weights", "--name", "mine")
    assert done.exit_code == 0, done.output + done.stderr
    found = load_encoder("mine")
    assert (found.family, found.patch, found.width, found.depth) == (family, made.patch, made.width, made.depth)
    # Computed from the architecture, and held against the weights.
    assert found.params == made.params
    assert (found.norm, found.summary != "pooled" or family in ("clip", "metaclip2", "siglip")) == (made.norm, True)
    way = found.preprocessing
    assert (way.mode, way.size, way.mean, way.std) == ("pad", 28, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    crop = found.variant("crop").preprocessing
    assert (crop.resize, crop.interpolation) == (32, "bilinear")
    load_encoder_model(found)
    for word in ("mine: ok", "left to decide", "feature_layer", "facts: pretraining_data", "pad keeps all of an image"):
        assert word in done.output


def test_a_folder_without_a_processor_wants_mean_and_std(here: Path) -> None:
    make_encoder(here / "weights")
    done = new("weights")
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
    assert "no mean of three channels in preprocessor_config.json" in done.stderr and "--mean" in done.stderr
    assert not (here / "configs").exists()
    assert new("weights", "--mean", "0.5,0.5,0.5", "--std", "0.5,0.5,0.5").exit_code == 0
    # Its native size, since nothing says another.
    assert load_encoder("weights").preprocessing.size == 28
    again = new("weights", "--mean", "0.5,0.5,0.5", "--std", "0.5,0.5,0.5")
    assert again.exit_code == 2 and "weights.yaml: is there already" in again.stderr


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "dinov2_with_register"}, "'dinov2_with_register': no family reads it .*dinov2_with_registers"),
        ({"model_type": "vjepa2"}, "no family reads it .*docs/add-an-encoder.md, 'A new family'"),
        (
            {"model_type": "dinov2_with_registers", "num_register_tokens": 3},
            "3 registers, family dinov2_with_reg",
        ),
        ({"model_type": None, "architecture": "vit_base"}, "is of timm's 'vit_base'"),
    ],
)
def test_what_no_family_reads_is_refused_with_near_names_and_the_page(
    change: dict[str, Any], message: str, here: Path
) -> None:
    make_encoder(here / "weights")
    process(here / "weights")
    path = here / "weights" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    done = new("weights")
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1), done.output + done.stderr
    assert re.search(message, done.stderr) and not (here / "configs").exists()


def test_what_is_no_folder_of_an_encoder_is_refused(here: Path) -> None:
    make_llm(here / "llm")
    (here / "model.onnx").write_bytes(b"\x08\x07")
    (here / "empty").mkdir()
    (here / "broken").mkdir()
    shutil.copytree(here / "llm", here / "broken", dirs_exist_ok=True)
    make_encoder(here / "broken")
    (here / "broken" / "preprocessor_config.json").write_text("{")
    for words, message in (
        (("llm",), "model_type 'llama': no family reads it"),
        (("model.onnx",), "is one file; only a folder in the hub's format says what it is"),
        (("empty",), "cannot be read as a model's config"),
        (("broken",), "cannot be read as a processor's config"),
        (("nowhere/to/be/found",), "no such folder, and no owner/name of the hub"),
        (("broken", "--name", "a/b"), "use letters, digits"),
        (("broken", "--to", "mine.txt"), "name a .yaml file"),
    ):
        done = new(*words)
        assert (done.exit_code, done.stderr.count("\n")) == (2, 1), done.output + done.stderr
        assert message in done.stderr
    assert not (here / "configs").exists()


@pytest.mark.parametrize("name", ["model.onnx", "model.gguf", "model.tflite"])
def test_a_file_of_another_format_is_refused_as_weights(name: str, here: Path) -> None:
    (here / name).write_bytes(b"\x08\x07")
    (here / "mine.yaml").write_text(
        f"base: dinov2-small\nname: mine\nweights: {{path: {here / name}, repo: null, revision: null}}\n"
    )
    for words in (["check", "mine.yaml"], ["weights", "mine.yaml"]):
        done = CliRunner().invoke(app, words)
        said = done.output + done.stderr
        assert done.exit_code == 2 and name in said and "give the model's folder in the hub's format" in said, said

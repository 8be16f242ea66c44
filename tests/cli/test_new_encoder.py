"""`mllm-eval new encoder` writes a yaml that loads the weights it was written from, or says in one line why not."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from local_hub import COMMIT, served
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


# OpenVision's weights are files of open_clip.
@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(set(FORMS) - {"openvision"}))
def test_a_folder_of_each_family_becomes_a_yaml_that_loads_it(family: str, here: Path) -> None:
    made = make_encoder(here / "weights", family)
    process(here / "weights")
    done = new("weights", "--name", "mine")
    assert done.exit_code == 0, done.output + done.stderr
    found = load_encoder("mine")
    assert (found.family, found.patch, found.width, found.depth) == (family, made.patch, made.width, made.depth)
    # Computed from the architecture, and held against the weights.
    assert found.params == made.params
    pooling = ("clip", "metaclip2", "mlcd", "siglip", "siglip2_naflex")
    assert (found.norm, found.summary != "pooled" or family in pooling) == (made.norm, True)
    way = found.preprocessing
    assert (way.mode, way.size, way.mean, way.std) == ("pad", 28, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    crop = found.variant("crop").preprocessing
    assert (crop.resize, crop.interpolation) == (32, "bilinear")
    load_encoder_model(found)
    for word in ("mine: ok", "left to decide", "feature_layer", "facts: pretraining_data", "pad keeps all of an image"):
        assert word in done.output


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "dinov2_with_register"}, "'dinov2_with_register': no family reads it .*dinov2_with_registers"),
        ({"model_type": "sam_vision_model"}, "no family reads it .*docs/add-an-encoder.md, 'A new family'"),
        (
            {"model_type": "dinov2_with_registers", "num_register_tokens": 3},
            "3 registers, family dinov2_with_reg",
        ),
        (
            {"model_type": None, "architecture": "vit_base"},
            r"config\.json: (family timm needs the package timm|timm .* has no architecture 'vit_base')",
        ),
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


@pytest.mark.slow
def test_what_is_no_folder_of_an_encoder_is_refused(here: Path) -> None:
    make_llm(here / "llm")
    (here / "model.onnx").write_bytes(b"\x08\x07")
    (here / "note.txt").write_text("a note")
    (here / "empty").mkdir()
    (here / "open_clip").mkdir()
    (here / "open_clip" / "open_clip_config.json").write_text("{}")
    (here / "broken").mkdir()
    shutil.copytree(here / "llm", here / "broken", dirs_exist_ok=True)
    make_encoder(here / "broken")
    (here / "broken" / "preprocessor_config.json").write_text("{")
    for words, message in (
        (("llm",), "model_type 'llama': no family reads it"),
        (("model.onnx",), "an ONNX file is a graph of operations"),
        (("note.txt",), "is one file; only a folder in the hub's format says what it is"),
        (("open_clip",), "holds a checkpoint of open_clip (open_clip_config.json); only a folder in the hub's format"),
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


# ---- what is no weights of an encoder, in one line ----
def one_line(words: list[str]) -> str:
    """What a command says that ends with exit code 2 and a line."""
    done = CliRunner().invoke(app, words)
    said = (done.output if done.output.strip() else done.stderr).strip()
    assert done.exit_code == 2 and "\n" not in said, done.output + done.stderr
    return said


def yaml_of(here: Path, base: str, **changes: Any) -> str:
    (here / "mine.yaml").write_text(f"base: {base}\nname: mine\n" + yaml.safe_dump(changes))
    return "mine.yaml"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["model.onnx", "model.gguf", "model.tflite"])
def test_a_file_of_another_format_is_refused_as_weights(name: str, here: Path) -> None:
    (here / name).write_bytes(b"\x08\x07")
    mine = yaml_of(here, "dinov2-small", weights={"path": str(here / name), "repo": None, "revision": None})
    for words in (["check", mine], ["weights", mine], ["new", "encoder", name]):
        said = one_line(words)
        assert name in said and "give the model's folder in the hub's format" in said, said


@pytest.mark.slow
def test_a_folder_that_holds_an_onnx_file_alone_is_refused_with_its_name(here: Path) -> None:
    made = make_encoder(here / "weights")
    process(here / "weights")
    (here / "weights" / "onnx").mkdir()
    (here / "weights" / "onnx" / "model.onnx").write_bytes(b"\x08\x07")
    # Beside other weights it is not in the way.
    load_encoder_model(made)
    (here / "weights" / "model.safetensors").unlink()
    mine = yaml_of(here, "dinov2-small", weights={"path": str(here / "weights"), "repo": None, "revision": None})
    for words in (["check", mine], ["new", "encoder", "weights"]):
        said = one_line(words)
        assert "onnx/model.onnx: an ONNX file is a graph of operations" in said and "hub's format" in said, said
    assert not (here / "configs").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "base", "registers", "change", "reads"),
    [
        ("dinov2_with_registers", "dinov2-reg-s-224", 2, {"num_register_tokens": 2}, 4),
        ("dinov2_with_registers", "dinov2-small", 4, {"model_type": "dinov2"}, 0),
        ("dinov3", "dinov3-s-224", 0, {"num_register_tokens": 0}, 4),
        ("tipsv2", "tipsv2-b-448", 3, {"num_register_tokens": 3}, 1),
        ("radio", "radio-v4-h-512", 5, {"num_registers": 5}, 7),
    ],
)
def test_a_tower_whose_registers_are_not_declared_is_refused(
    kind: str, base: str, registers: int, change: dict[str, Any], reads: int, here: Path
) -> None:
    make_encoder(here / "weights", kind)
    process(here / "weights")
    path = here / "weights" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    local = {"path": str(here / "weights"), "repo": None, "revision": None, "url": None}
    for words in (["check", yaml_of(here, base, weights=local)], ["new", "encoder", "weights"]):
        said = one_line(words)
        assert f"the weights have {registers} registers" in said and f"reads them with {reads}; docs/" in said, said


@pytest.mark.slow
def test_an_unknown_family_is_refused_with_near_names_and_the_page(here: Path) -> None:
    for family, meant in (("siglip2", "siglip"), ("vjepa_2", "vjepa2"), ("dinov22", "dinov2")):
        said = one_line(["check", yaml_of(here, "dinov2-small", family=family)])
        assert f"family '{family}': no family reads it" in said and meant in said.partition("Did you mean")[2], said
        assert "docs/add-an-encoder.md, 'A new family', says how to add one" in said


# ---- repositories of the hub ----
def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.slow
def test_a_repository_is_fetched_locked_and_named_with_its_commit(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_encoder(here / "made", "vjepa2")
    process(here / "made")
    (here / "made" / "preprocessor_config.json").rename(here / "made" / "video_preprocessor_config.json")
    with served(here, monkeypatch) as hub:
        hub.repos["models/owner/my-vjepa"] = files_of(here / "made")
        done = new("owner/my-vjepa")
        assert done.exit_code == 0, done.output + done.stderr
        found = load_encoder("my-vjepa")
        assert (found.weights.repo, found.weights.revision, found.weights.path) == ("owner/my-vjepa", COMMIT, None)
        assert (found.family, found.params, found.summary, found.preprocessing.size) == (
            "vjepa2",
            made.params,
            "mean",
            28,
        )
        assert found.variant("crop").preprocessing.resize == 32
        load_encoder_model(found)
        assert "my-vjepa: ok" in done.output and "left to decide" in done.output
        # It is the commit that is locked, as the yaml names it; nothing is asked of the hub again.
        assert (here / "data" / "locks" / "model" / f"owner--my-vjepa@{COMMIT}.json").is_file()
        hub.asked.clear()
        assert new("owner/my-vjepa", "--name", "again", "--offline").exit_code == 0 and not hub.asked


@pytest.mark.slow
def test_a_repository_that_no_family_reads_is_refused_in_one_line(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_encoder(here / "made")
    config = json.loads((here / "made" / "config.json").read_text())
    (here / "made" / "config.json").write_text(json.dumps({**config, "model_type": "dinov4"}))
    with served(here, monkeypatch) as hub:
        hub.repos["models/owner/other"] = files_of(here / "made")
        hub.repos["models/owner/onnx"] = {"config.json": json.dumps(config).encode(), "model.onnx": b"\x08\x07"}
        for repo, message in (
            ("owner/other", "model_type 'dinov4': no family reads it .* Did you mean 'dinov2'.*'A new family'"),
            ("owner/onnx", r"no weights in it \(model\.safetensors or pytorch_model\.bin\)"),
            ("owner/none", "owner/none"),
        ):
            done = new(repo)
            # What was fetched is told first.
            said = [line for line in done.stderr.splitlines() if not line.startswith("weights: ")]
            assert (done.exit_code, len(said)) == (2, 1), done.output + done.stderr
            assert re.search(message, said[0]), said
    assert not (here / "configs").exists()


# ---- timm ----
TIMM = {
    "architecture": "vit_tiny_patch16_224",
    "num_classes": 5,
    "model_args": {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "reg_tokens": 3},
    "pretrained_cfg": {
        "input_size": [3, 32, 32],
        "interpolation": "bilinear",
        "crop_pct": 0.5,
        "mean": [0.1, 0.2, 0.3],
        "std": [0.4, 0.5, 0.6],
    },
}
CONVNEXT = {
    "architecture": "convnext_atto",
    "model_args": {"depths": [1, 1, 1, 1], "dims": [8, 16, 24, 32]},
    "pretrained_cfg": {**TIMM["pretrained_cfg"], "input_size": [3, 64, 64], "crop_mode": "squash"},  # type: ignore[dict-item]
}


def save_timm(config: dict[str, Any], folder: Path) -> None:
    timm = pytest.importorskip("timm")
    from safetensors.torch import save_file

    folder.mkdir()
    model = timm.create_model(config["architecture"], pretrained=False, num_classes=5, **config["model_args"])
    save_file(model.state_dict(), folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("config", "family", "patch", "depth", "summary", "left_out", "mode"),
    [(TIMM, "timm", 8, 2, "cls", 4, "crop"), (CONVNEXT, "timm_convnext", 32, 4, "mean", 0, "squash")],
)
def test_a_timm_repository_becomes_a_yaml_that_loads_it(
    config: dict[str, Any],
    family: str,
    patch: int,
    depth: int,
    summary: str,
    left_out: int,
    mode: str,
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    save_timm(config, here / "made")
    with served(here, monkeypatch) as hub:
        hub.repos["models/timm/mine.tag"] = files_of(here / "made")
        done = new("timm/mine.tag", "--name", "mine")
        assert done.exit_code == 0, done.output + done.stderr
        found = load_encoder("mine")
        load_encoder_model(found)
    assert (found.family, found.patch, found.width, found.depth) == (family, patch, 32, depth)
    assert (found.weights.repo, found.weights.revision, found.summary) == ("timm/mine.tag", COMMIT, summary)
    way = found.preprocessing
    size = config["pretrained_cfg"]["input_size"][-1]
    assert (way.mode, way.size, way.mean, way.std) == ("pad", size, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    theirs = found.variant(mode).preprocessing
    assert theirs.interpolation == "bilinear" and theirs.resize == (64 if mode == "crop" else None)
    assert f"left out: {left_out} tokens before the patches" in done.output
    assert "supervision: none (no encoder that is described decides this)" in done.output


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({**TIMM, "architecture": "resnet18", "model_args": {}}, "resnet18 is of another family .*'A new family'"),
        ({**TIMM, "architecture": "vit_tiny_patch16_244"}, "Did you mean 'vit_tiny_patch16_224'"),
        ({**TIMM, "pretrained_cfg": {"input_size": "large"}}, "config.json: `pretrained_cfg` cannot be read"),
        ({**TIMM, "pretrained_cfg": 7}, "config.json: `pretrained_cfg` cannot be read"),
        ({**TIMM, "pretrained_cfg": None}, "no mean of three channels"),
    ],
)
def test_a_timm_config_that_says_too_little_is_refused(config: dict[str, Any], message: str, here: Path) -> None:
    pytest.importorskip("timm")
    (here / "weights").mkdir()
    (here / "weights" / "config.json").write_text(json.dumps(config))
    (here / "weights" / "model.safetensors").write_bytes(b"")
    done = new("weights")
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1), done.output + done.stderr
    assert re.search(message, done.stderr) and not (here / "configs").exists()


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import torchvision_that_is_not_there", "needs the package torchvision_that_is_not_there; install it with"),
        (
            "raise RuntimeError('operator nms does not exist')",
            "timm cannot be imported .*nms.*; install the torchvision",
        ),
    ],
)
def test_a_timm_that_cannot_be_imported_says_what_it_lacks(
    code: str, message: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "modules").mkdir()
    (here / "modules" / "timm.py").write_text(code)
    monkeypatch.syspath_prepend(str(here / "modules"))
    for name in [name for name in sys.modules if name.partition(".")[0] == "timm"]:
        monkeypatch.delitem(sys.modules, name)
    (here / "weights").mkdir()
    (here / "weights" / "config.json").write_text(json.dumps(TIMM))
    (here / "weights" / "model.safetensors").write_bytes(b"")
    done = new("weights")
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1), done.output + done.stderr
    assert re.search(message, done.stderr) and "weights/config.json" in done.stderr

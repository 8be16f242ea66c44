"""`mllm-eval check`: it says what an encoder does, and refuses yaml files that do not match their weights."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tiny_models import make_encoder
from typer.testing import CliRunner, Result

from mllm_eval.adapters.base import EncoderModel
from mllm_eval.cli.app import app

IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
VARIANTS = {"squash": {"mode": "squash", "interpolation": "bilinear"}, "crop": {"mode": "crop"}}


def check(*words: str) -> Result:
    return CliRunner().invoke(app, ["check", *words])


def written(folder: Path, family: str = "dinov2", processor: Any = None, **changes: Any) -> str:
    """The yaml of a tiny encoder, its processor saved beside its weights."""
    encoder = make_encoder(folder / "weights", family)
    values = {**encoder.model_dump(mode="json"), "variants": VARIANTS, **changes}
    values["preprocessing"] = {**values["preprocessing"], **IMAGENET}
    if processor is not None:
        processor.save_pretrained(folder / "weights")
    path = folder / f"tiny-{family}.yaml"
    path.write_text(yaml.safe_dump(values))
    return str(path)


def told(output: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in output.splitlines():
        if match := re.match(r"  (\w+(?: \w+)?) +(.*)", line):
            found.setdefault(match[1], []).append(match[2])
    return found


@pytest.mark.parametrize(
    ("family", "tokens", "layer"),
    [
        ("dinov2", "16 tokens of 32, 1 before them dropped", "layer 2 of 2, final norm applied"),
        ("clip", "16 tokens of 32, 1 before them dropped", "layer 2 of 2, without the final norm"),
        ("siglip", "16 tokens of 32, none before them", "layer 2 of 2, final norm applied"),
    ],
)
def test_it_tells_what_an_encoder_does(family: str, tokens: str, layer: str, tmp_path: Path) -> None:
    done = check(written(tmp_path, family))
    assert done.exit_code == 0, done.output
    assert done.output.startswith(f"tiny-{family}: ok; family {family}, patch 7, depth 2, ")
    said = told(done.output)
    assert said["grid"] == [f"4 x 4, {tokens}"]
    assert said["dtype"] == ["float32 on cpu"]
    assert said["repeatable"][0].startswith("yes; alone or in a batch, largest difference ")
    assert said["in order"] == ["yes"]
    assert said["features"][0].startswith(layer)
    assert re.fullmatch(r"of the tokens: median \d+\.\d\d, largest \d+\.\d\d", said["norms"][0])
    assert said["pixels"] == ["pad to 28 x 28, bicubic; no processor beside the weights"]
    assert "differs" not in said and "processor" not in said


@pytest.mark.slow
def test_a_normed_layer_before_the_last_is_told_from_the_classes_output(tmp_path: Path) -> None:
    said = told(check(written(tmp_path, feature_layer=-2)).output)
    assert said["features"][0].startswith("layer 1 of 2")
    assert said["differs"] == ["features are not Dinov2Model's last_hidden_state: layer -2, normed"]
    clip = told(check(written(tmp_path, "clip", norm=True)).output)
    assert clip["differs"] == ["features are not CLIPVisionModel's last_hidden_state: layer -1, normed"]


def test_ijepas_converted_processor_is_told_to_normalise_otherwise(tmp_path: Path) -> None:
    from transformers import ViTImageProcessorPil

    said = told(check(written(tmp_path, "ijepa", ViTImageProcessorPil(size={"height": 28, "width": 28}))).output)
    assert "mean is 0.5 0.5 0.5 in the processor beside the weights, 0.485 0.456 0.406 in the yaml" in said["differs"]
    assert "std is 0.5 0.5 0.5 in the processor beside the weights, 0.229 0.224 0.225 in the yaml" in said["differs"]
    assert "the processor beside the weights makes other pixels than the yaml" in said["differs"]


@pytest.mark.slow
def test_the_variant_that_does_as_the_processor_is_named(tmp_path: Path) -> None:
    from transformers import BitImageProcessorPil, ViTImageProcessorPil

    sizes = {"image_mean": IMAGENET["mean"], "image_std": IMAGENET["std"]}
    crop = BitImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 28, "width": 28}, **sizes)
    said = told(check(written(tmp_path, "dinov2", crop)).output)
    assert said["processor"][1] == "crop: largest difference 0.0 of 255 levels"
    assert said["differs"] == [
        "the processor beside the weights makes other pixels than the yaml; variant crop does as it does"
    ]
    squash = ViTImageProcessorPil(size={"height": 28, "width": 28}, resample=2, **sizes)
    said = told(check(written(tmp_path, "vit", squash)).output)
    assert "variant squash does as it does" in said["differs"][0]
    assert said["differs"][1] == "interpolation is bilinear in the processor beside the weights, bicubic in the yaml"
    other = ViTImageProcessorPil(size={"height": 56, "width": 56}, **sizes)
    said = told(check(written(tmp_path, "vit", other)).output)
    assert said["processor"][0] == "pad: 28 x 28 pixels, the processor gives 56"


def test_an_unreadable_processor_is_told_and_is_no_fault(tmp_path: Path) -> None:
    path = written(tmp_path)
    (tmp_path / "weights" / "preprocessor_config.json").write_text("{")
    done = check(path)
    assert done.exit_code == 0
    assert told(done.output)["differs"][0].startswith("the processor beside the weights cannot be used (")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 64}, "the yaml says width: 64, the weights have 32; correct the yaml"),
        ({"params": 77}, "the yaml says params: 77, the weights have"),
        (
            {"params": 0, "architecture": {"heads": 4, "hidden": 64, "native": 28}},
            "the yaml says heads: 4, the weights have 2; correct the yaml",
        ),
        (
            {"params": 0, "architecture": {"heads": 2, "hidden": 64, "native": 56}},
            "the yaml says native: 56, the weights have 28; correct the yaml",
        ),
        (
            {"params": 0, "architecture": {"heads": 2, "hidden": 88, "native": 28, "ffn": "swiglu"}},
            "the yaml says ffn: swiglu, the weights have mlp; correct the yaml",
        ),
        (
            {"params": 0, "architecture": {"heads": 2, "hidden": 64, "native": 28, "norm_eps": 1e-12}},
            "the yaml says norm_eps: 1e-12, the weights have 1e-06; correct the yaml",
        ),
        ({"weights": {"repo": "no/such-weights"}}, "not on this machine"),
    ],
)
def test_facts_that_do_not_match_are_refused_in_one_line(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    done = check(written(tmp_path, **changes))
    assert done.exit_code == 2
    assert message in done.output and len(done.output.splitlines()) == 1


@pytest.mark.slow
def test_architectures_are_compared_before_the_weights_are_read(tmp_path: Path) -> None:
    path = written(tmp_path, params=0, architecture={"heads": 4, "hidden": 64, "native": 28})
    (tmp_path / "weights" / "model.safetensors").unlink()
    assert "the yaml says heads: 4" in check(path).output


def test_an_encoder_that_shuffles_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = EncoderModel.forward

    def shuffled(self: EncoderModel, pixels: torch.Tensor, layers: Any = ()) -> Any:
        found = plain(self, pixels, layers)
        order = torch.randperm(16)
        return [one._replace(patches=one.patches.flatten(1, 2)[:, order].unflatten(1, (4, 4))) for one in found]

    monkeypatch.setattr(EncoderModel, "forward", shuffled)
    torch.manual_seed(0)
    done = check(written(tmp_path, "vit"))
    assert done.exit_code == 2
    assert "its features are not the same twice" in done.output
    assert told(done.output)["repeatable"][0].startswith("NO")


@pytest.mark.slow
def test_all_checks_what_is_here_and_names_the_rest() -> None:
    done = check()
    assert done.exit_code == 0, done.output
    assert "\nmini-dino: ok;" in done.output
    assert "siglip-so400m-384: not on this machine, nothing to check" in done.output


def test_no_bars_are_shown_where_transformers_was_imported_before() -> None:
    from transformers.utils import logging as transformers_logging

    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.enable_progress_bar()
    try:
        done = CliRunner().invoke(app, ["check", "mini-dino"])
        assert done.output.startswith("mini-dino: ok;")
        assert transformers_logging.is_progress_bar_enabled()
    finally:
        (transformers_logging.enable_progress_bar if shown else transformers_logging.disable_progress_bar)()

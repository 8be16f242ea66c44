"""timm's models keep the contract; everything here is skipped where timm is not installed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import HALF

from mllm_eval.adapters import family, load_encoder_model
from mllm_eval.adapters.examination import examine
from mllm_eval.catalog import Encoder, load_encoder, names
from mllm_eval.errors import UserError

ARCHITECTURE = "vit_tiny_patch16_224"
SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "reg_tokens": 3}


def encoder(folder: Path, **changes: Any) -> Encoder:
    values: dict[str, Any] = {
        "name": "tiny-timm",
        "family": "timm",
        "weights": {"path": str(folder)},
        "patch": 8,
        "width": 32,
        "depth": 2,
        "params": 32_416,
        "preprocessing": {"mode": "pad", "size": 32, "mean": HALF, "std": HALF},
        "facts": {"pretraining_data": "none", "samples_seen": "0", "supervision": "none"},
    }
    return Encoder(**{**values, **changes})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A random model as timm keeps it on the hub, its classifier and registers included."""
    timm = pytest.importorskip("timm")
    from safetensors.torch import save_file

    torch.manual_seed(0)
    model = timm.create_model(ARCHITECTURE, pretrained=False, num_classes=5, **SMALL)
    save_file(model.state_dict(), tmp_path / "model.safetensors", {"format": "pt"})
    config = {"architecture": ARCHITECTURE, "num_classes": 5, "model_args": SMALL}
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


def test_features_are_timms_own_without_cls_and_registers(folder: Path) -> None:
    import timm

    model = load_encoder_model(encoder(folder))
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    (got,) = model(pixels)
    plain = timm.create_model(ARCHITECTURE, pretrained=False, num_classes=0, **SMALL)
    plain.load_state_dict(model.model.state_dict())
    plain.eval()
    with torch.no_grad():
        said = plain.forward_features(pixels)
    assert model.prefix == 4
    torch.testing.assert_close(got.patches.flatten(1, 2), said[:, 4:], atol=1e-5, rtol=0)
    torch.testing.assert_close(got.summary, said[:, 0], atol=1e-5, rtol=0)
    # 45 pixels are five patches and a rest.
    assert model(torch.randn(1, 3, 45, 45))[0].patches.shape == (1, 5, 5, 32)


def test_the_architecture_is_made_again_from_its_config(folder: Path) -> None:
    model = load_encoder_model(encoder(folder))
    again = type(model).build(model.facts, json.loads(json.dumps(model.config_values())))
    again.load_state_dict(model.state_dict())
    pixels = torch.randn(1, 3, 32, 32)
    assert torch.equal(again(pixels)[0].patches, model(pixels)[0].patches)


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), "has none of model.safetensors"),
        (lambda folder: (folder / "config.json").write_text("{}"), "cannot be read as a timm model's config"),
        (lambda folder: (folder / "config.json").write_text('{"architecture": "vit_gigantic"}'), "no architecture"),
        (
            lambda folder: (folder / "config.json").write_text('{"architecture": "vit_tiny_patch16_244"}'),
            r"no architecture 'vit_tiny_patch16_244'\. Did you mean 'vit_tiny_patch16_224'",
        ),
        (
            lambda folder: (folder / "config.json").write_text('{"architecture": "resnet18"}'),
            "resnet18 is of another family .*'A new family'",
        ),
        (lambda folder: (folder / "config.json").write_text('{"architecture": "convnext_atto"}'), "of another family"),
        (lambda folder: (folder / "config.json").write_text('{"architecture": ["vit"]}'), "no architecture"),
    ],
)
def test_what_is_no_folder_of_a_vision_transformer_is_refused(break_it: Any, message: str, folder: Path) -> None:
    break_it(folder)
    with pytest.raises(UserError, match=message):
        load_encoder_model(encoder(folder))


def test_facts_are_checked(folder: Path) -> None:
    with pytest.raises(UserError, match="the yaml says patch: 14, the weights have 8"):
        load_encoder_model(encoder(folder, patch=14))
    with pytest.raises(UserError, match="params: 5"):
        load_encoder_model(encoder(folder, params=5))


def test_without_timm_the_mend_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    (tmp_path / "config.json").write_text(json.dumps({"architecture": ARCHITECTURE}))
    (tmp_path / "model.safetensors").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=r"install it with `pip install mllm-eval\[timm\]`"):
        load_encoder_model(encoder(tmp_path))


# ---- what is published of timm's models ----
def described(*families: str) -> list[str]:
    return [name for name in names("encoders") if load_encoder(name).family in families]


def published(name: str) -> tuple[Encoder, str]:
    """A yaml and the architecture that its repository is named by."""
    found = load_encoder(name)
    assert found.weights.repo is not None
    return found, found.weights.repo.removeprefix("timm/").rpartition(".")[0]


@pytest.mark.parametrize("name", described("timm", "timm_convnext"))
def test_the_yaml_says_what_timms_architecture_has(name: str) -> None:
    timm = pytest.importorskip("timm")
    found, architecture = published(name)
    with torch.device("meta"):
        # Its facts, parameters among them, are held against the model while it is made.
        model = family(found.family).build(found, {"architecture": architecture})
    assert len(model.blocks()) == found.depth
    assert found.weights.repo is not None
    cfg = timm.get_pretrained_cfg(found.weights.repo.removeprefix("timm/"))
    way = found.preprocessing
    assert (cfg.input_size[-1], cfg.mean, cfg.std) == (way.size, way.mean, way.std)
    assert found.variant("crop").preprocessing.resize == int(way.size / cfg.crop_pct)
    assert found.variant("squash").preprocessing.interpolation == cfg.interpolation == "bicubic"


@pytest.mark.parametrize("name", described("timm", "timm_convnext"))
def test_one_layer_of_the_true_width_keeps_the_contract(name: str) -> None:
    pytest.importorskip("timm")
    found, architecture = published(name)
    shallow = {"depths": (1, 1, 1, 1)} if found.family == "timm_convnext" else {"depth": 1}
    kind: Any = family(found.family)
    with torch.device("meta"):
        empty = kind.made(name, {"architecture": architecture, "model_args": shallow})
    depth, params = len(kind.blocks_of(empty)), sum(one.numel() for one in empty.parameters())
    facts = Encoder.model_validate(found.model_dump() | {"depth": depth, "params": params})
    torch.manual_seed(0)
    model = kind.build(facts, {"architecture": architecture, "model_args": shallow})
    for parameter_name, parameter in model.named_parameters():
        # Layer scales begin so small that a block does nothing.
        if "gamma" in parameter_name:
            parameter.data.fill_(1)
    size = 4 * (found.patch or 1) + 3
    pixels = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(1))
    (got,) = model(pixels)
    assert got.patches.shape == (1, 4, 4, found.width) and got.summary.shape == (1, found.width)
    assert torch.isfinite(got.patches).all() and torch.isfinite(got.summary).all()
    assert torch.equal(model(pixels)[0].patches, got.patches)
    spread = got.patches.std(-1, correction=0)
    assert bool(((spread - 1).abs() < 1e-2).all()) == found.norm
    assert model.has_cls == (found.summary == "cls" or found.name in ("pe-core-b-224", "pe-core-l-336"))
    edge = found.patch or 1
    pixels[..., -edge - 3 : -3, -edge - 3 : -3] += 3
    moved = (model(pixels)[0].patches - got.patches).norm(dim=-1).flatten()
    assert moved.argmax().item() == 15


PUBLISHED = {
    # The model card and the paper, in billions, rounded.
    "pe-core-b-224": (0.09e9, 5e6),
    "pe-core-l-336": (0.32e9, 5e6),
    "pe-core-g-448": (1.88e9, 5e6),
    # timm's tables, in millions, with a classifier of 1,000.
    "convnext-clip-base-320": (88.59e6 - 1_025_000, 1e4),
    "convnext-clip-large-320": (200.13e6 - 1_537_000, 1e4),
    "convnext-clip-xxl-256": (846.47e6 - 3_073_000, 1e4),
}


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_parameters_are_those_that_were_published(name: str) -> None:
    stated, within = PUBLISHED[name]
    assert abs(load_encoder(name).params - stated) <= within


# ---- ConvNeXt ----
CONVNEXT = "convnext_atto"
NARROW = {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32), "head_hidden_size": 12}


@pytest.fixture
def convnext(tmp_path: Path) -> Path:
    """A random ConvNeXt as timm keeps it on the hub, its projection included."""
    timm = pytest.importorskip("timm")
    from safetensors.torch import save_file

    torch.manual_seed(0)
    model = timm.create_model(CONVNEXT, pretrained=False, num_classes=5, **NARROW)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    save_file(model.state_dict(), tmp_path / "model.safetensors", {"format": "pt"})
    config = {"architecture": CONVNEXT, "num_classes": 5, "model_args": NARROW}
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


def grid(folder: Path, **changes: Any) -> Encoder:
    timm = pytest.importorskip("timm")
    empty = timm.create_model(CONVNEXT, pretrained=False, num_classes=0, **NARROW)
    way = {"mode": "pad", "size": 64, "mean": HALF, "std": HALF}
    own = {"family": "timm_convnext", "patch": 32, "depth": 4, "preprocessing": way, "norm": False, "summary": "pooled"}
    params = sum(one.numel() for one in empty.parameters())
    return encoder(folder, **{**own, "params": params, **changes})


def test_a_convnexts_cells_are_its_last_map_and_its_norm_is_the_heads(convnext: Path) -> None:
    model = load_encoder_model(grid(convnext))
    pixels = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    (got,) = model(pixels)
    with torch.no_grad():
        said = model.model.forward_features(pixels)
        pooled = model.model.head.norm(said.mean((2, 3), keepdim=True)).flatten(1)
    assert (model.prefix, model.has_cls, got.patches.shape) == (0, False, (2, 2, 3, 32))
    torch.testing.assert_close(got.patches, said.permute(0, 2, 3, 1))
    torch.testing.assert_close(got.summary, pooled)
    normed = load_encoder_model(grid(convnext, norm=True))(pixels)[0].patches
    torch.testing.assert_close(normed, model.model.head.norm(said).permute(0, 2, 3, 1))
    again = type(model).build(model.facts, json.loads(json.dumps(model.config_values())))
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(pixels)[0].patches, got.patches)


def test_of_a_convnext_the_last_stage_alone_has_the_grid_of_the_yaml(convnext: Path) -> None:
    model = load_encoder_model(grid(convnext))
    with pytest.raises(UserError, match="the layer has 16 tokens of the image, the yaml says 2 x 2"):
        model(torch.zeros(1, 3, 64, 64), layers=(3,))


def test_a_convnexts_cells_are_in_order_though_they_overlap(convnext: Path) -> None:
    found = examine(load_encoder_model(grid(convnext)))
    assert found.ordered and found.repeatable and not found.differs


def test_a_convnexts_facts_are_checked(convnext: Path) -> None:
    for changes, said in (({"patch": 16}, "patch: 16, the weights have 32"), ({"depth": 3}, "depth: 3")):
        with pytest.raises(UserError, match=said):
            load_encoder_model(grid(convnext, **changes))
    with pytest.raises(UserError, match="convnext_atto is of another family"):
        load_encoder_model(grid(convnext, family="timm"))


def test_a_transformer_without_a_final_norm_is_not_said_to_be_normed(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    args = {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": 32}
    kind: Any = family("timm")
    config = {"architecture": "vit_pe_lang_large_patch14_448", "model_args": args}
    params = sum(one.numel() for one in kind.made("it", config).parameters())
    facts = encoder(tmp_path, params=params, norm=False)
    assert kind.build(facts, config)(torch.zeros(1, 3, 32, 32))[0].patches.shape == (1, 4, 4, 32)
    with pytest.raises(UserError, match="its class has no final norm; set norm: false"):
        kind.build(facts.model_copy(update={"norm": True}), config)

"""timm's models keep the contract; everything here is skipped where timm is not installed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import HALF

from mllm_eval.adapters import load_encoder_model
from mllm_eval.catalog import Encoder
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
        (lambda folder: (folder / "config.json").write_text('{"architecture": "resnet18"}'), "no plain vision"),
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

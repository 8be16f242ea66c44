"""Liger's kernels: asked for by a field, refused where they cannot run, and kept to the model that is trained."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import make_recipe
from tiny_training import make_run
from transformers.models.llama import modeling_llama

from mllm_eval.errors import UserError
from mllm_eval.train import train
from mllm_eval.train.liger import check_liger, use_liger


@pytest.fixture(autouse=True)
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLLM_EVAL_RESULTS", str(tmp_path / "results"))


@pytest.fixture
def liger(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A stand-in for liger_kernel that notes what it is asked for and replaces what the real one replaces."""
    asked: list[dict[str, Any]] = []

    def apply(**options: Any) -> None:
        asked.append(options)
        modeling_llama.LlamaRMSNorm = torch.nn.Identity  # type: ignore[misc, assignment]
        for layer in options["model"].model.layers:
            layer.mlp.fused = True

    package, module = types.ModuleType("liger_kernel"), types.ModuleType("liger_kernel.transformers")
    package.__spec__ = types.SimpleNamespace(name="liger_kernel")  # type: ignore[assignment]
    module.apply_liger_kernel_to_llama = apply  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "liger_kernel", package)
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", module)
    return asked


def test_without_the_package_nothing_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path, stage2={"kernels": "liger"})
    monkeypatch.setitem(sys.modules, "liger_kernel", None)
    with pytest.raises(
        UserError, match=r"stage 2: `kernels: liger` needs liger-kernel; pip install 'mllm-eval\[liger\]"
    ):
        train(run)
    assert not list((tmp_path / "results").rglob("*.json"))


def test_without_a_gpu_nothing_starts(tmp_path: Path, liger: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="stage 1: `kernels: liger` needs a GPU and there is none; remove the field"):
        train(make_run(tmp_path, stage1={"kernels": "liger"}))
    check_liger(None, "stage 1")
    assert not liger


def test_only_the_model_that_is_trained_gets_them(tmp_path: Path, liger: list[dict[str, Any]]) -> None:
    from mllm_eval.model import load_llm_model

    llm, norm = load_llm_model(make_run(tmp_path).llm), modeling_llama.LlamaRMSNorm
    use_liger(llm, None)
    assert not liger
    use_liger(llm, "liger")
    assert all(layer.mlp.fused for layer in llm.model.layers)
    assert modeling_llama.LlamaRMSNorm is norm
    (options,) = liger
    assert options.pop("model") is llm
    assert {name for name, value in options.items() if value} == {"rms_norm", "swiglu"}


def test_recipes_without_the_field_keep_their_hash() -> None:
    # As it was before `kernels`.
    assert make_recipe(Path("a"), Path("b")).hash == "9f655ba2449a"
    assert make_recipe(Path("a"), Path("b"), stage2={"kernels": "liger"}).hash != "9f655ba2449a"

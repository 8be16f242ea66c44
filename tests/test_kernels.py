"""Linear layers through oneDNN: the numbers of torch's own, both ways, and torch's own where they do not fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_models import make_encoder, make_llm, make_recipe
from torch import nn

from mllm_eval import kernels
from mllm_eval.errors import UserError
from mllm_eval.features import Features
from mllm_eval.kernels import OnednnLinear, has_avx512, has_onednn, kernels_here, resolve_kernels, use_kernels
from mllm_eval.run import Run

pytestmark = pytest.mark.skipif(not has_onednn(), reason="this torch was built without oneDNN")


def pair(bias: bool) -> tuple[nn.Linear, nn.Linear]:
    torch.manual_seed(0)
    plain, made = nn.Linear(24, 40, bias=bias), nn.Linear(24, 40, bias=bias)
    made.load_state_dict(plain.state_dict())
    return plain, use_kernels(made, "onednn")


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(3, 7, 24), (5, 24), (24,), (0, 24)])
def test_values_and_gradients_are_those_of_torch(shape: tuple[int, ...], bias: bool) -> None:
    grads = []
    states = torch.randn(shape)
    for layer in pair(bias):
        given = states.clone().requires_grad_()
        found = layer(given)
        found.square().sum().backward()
        with torch.no_grad():
            torch.testing.assert_close(layer(given), found)
        grads.append([found, given.grad, *(parameter.grad for parameter in layer.parameters())])
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_a_frozen_layer_gets_no_gradient_and_passes_one_on() -> None:
    _, layer = pair(True)
    layer.requires_grad_(False)
    given = torch.randn(2, 24, requires_grad=True)
    layer(given).sum().backward()
    assert given.grad is not None and given.grad.any() and layer.weight.grad is None


def test_what_does_not_fit_stays_with_torch_and_layers_become_plain_again() -> None:
    plain, layer = pair(True)
    assert type(layer) is OnednnLinear and type(use_kernels(layer, "torch")) is nn.Linear
    use_kernels(layer, "onednn")
    states = torch.randn(4, 24)
    torch.testing.assert_close(layer.double()(states.double()), plain.double()(states.double()))
    turned = nn.Linear(24, 40)
    turned.weight = nn.Parameter(torch.randn(24, 40).T)
    expected = turned(states)
    torch.testing.assert_close(use_kernels(turned, "onednn")(states), expected)


@pytest.mark.parametrize("grad", [True, False])
def test_autocast_is_heard(grad: bool) -> None:
    plain, layer = pair(True)
    states = torch.randn(4, 24)
    with torch.set_grad_enabled(grad), torch.autocast("cpu", torch.bfloat16):
        found = layer(states)
        assert found.dtype == torch.bfloat16 and torch.equal(found, plain(states))


def test_a_recipe_says_by_what_and_else_the_processor_does(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_kernels("auto") == ("onednn" if has_avx512() else "torch")
    for capability, chosen in (("AVX512", "onednn"), ("AVX2", "torch")):
        monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda capability=capability: capability)
        assert [resolve_kernels(one) for one in ("auto", "onednn", "torch")] == [chosen, "onednn", "torch"]
        assert type(use_kernels(nn.Linear(2, 2))) is (OnednnLinear if chosen == "onednn" else nn.Linear)
    assert kernels_here("onednn") == "onednn"
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert kernels_here("onednn") == "torch"
    monkeypatch.setattr(kernels, "has_onednn", lambda: False)
    assert resolve_kernels("auto") == "torch"
    with pytest.raises(UserError, match="`kernels: onednn`: this torch was built without oneDNN"):
        resolve_kernels("onednn")


def test_another_way_to_compute_is_another_run_with_features_of_its_own(tmp_path: Path) -> None:
    encoder, llm = make_encoder(tmp_path / "encoder"), make_llm(tmp_path / "llm")
    recipe = make_recipe(tmp_path / "none.jsonl", tmp_path)
    hashes, stores = set(), set()
    for asked in ("auto", "onednn", "torch"):
        run = Run(encoder, recipe.model_copy(update={"kernels": asked}), llm, 0)
        features = Features.of(run)
        kinds = {type(one) for one in features.model.modules() if isinstance(one, nn.Linear)}
        assert kinds == {OnednnLinear if resolve_kernels(asked) == "onednn" else nn.Linear}
        hashes.add(run.hash)
        stores.add(features.store.folder)
    assert len(hashes) == len(stores) == 3 and "kernels" not in recipe.identity()

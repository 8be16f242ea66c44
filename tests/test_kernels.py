"""Linear layers through oneDNN: the numbers of torch's own, both ways, and torch's own where they do not fit."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mllm_eval.kernels import QuickLinear, quick, wide

pytestmark = pytest.mark.skipif(not wide(), reason="the CPU has no AVX-512, layers stay torch's own")


def pair(bias: bool) -> tuple[nn.Linear, nn.Linear]:
    torch.manual_seed(0)
    plain, made = nn.Linear(24, 40, bias=bias), nn.Linear(24, 40, bias=bias)
    made.load_state_dict(plain.state_dict())
    return plain, quick(made)


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
    assert type(layer) is QuickLinear and type(quick(layer, on=False)) is nn.Linear
    quick(layer)
    states = torch.randn(4, 24)
    torch.testing.assert_close(layer.double()(states.double()), plain.double()(states.double()))
    turned = nn.Linear(24, 40)
    turned.weight = nn.Parameter(torch.randn(24, 40).T)
    expected = turned(states)
    torch.testing.assert_close(quick(turned)(states), expected)

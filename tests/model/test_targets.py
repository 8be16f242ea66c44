"""States are computed where targets need them, and losses and gradients are those of the whole pass."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from mllm_eval.model.targets import states_before_targets


def llama(kv_heads: int = 2, **changes: Any) -> Any:
    torch.manual_seed(5)
    facts = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3} | changes
    model = LlamaForCausalLM(LlamaConfig(num_attention_heads=4, num_key_value_heads=kv_heads, **facts))
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.3)
    return model.train()


def passed(model: Any, embeds: Tensor, used: Tensor, whole: bool) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    """Loss, gradients of the weights, gradient of the embeddings."""
    model.zero_grad()
    given = embeds.clone().requires_grad_()
    if whole:
        states = model.model(inputs_embeds=given).last_hidden_state[used]
    else:
        states = states_before_targets(model.model, given, used)
    logits = model.lm_head(states)
    loss = F.cross_entropy(logits, torch.arange(len(logits)) % 50, reduction="sum")
    loss.backward()
    grads = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    assert given.grad is not None
    return loss.detach(), grads, given.grad


def assert_same(model: Any, embeds: Tensor, used: Tensor) -> None:
    expected, weights, inputs = passed(model, embeds, used, whole=True)
    weights = {name: grad.clone() for name, grad in weights.items()}
    found, own, own_inputs = passed(model, embeds, used, whole=False)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(own_inputs, inputs, rtol=1e-4, atol=1e-4)
    assert own.keys() == weights.keys()
    for name, grad in own.items():
        torch.testing.assert_close(grad, weights[name], rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kv_heads", [4, 2])
def test_losses_and_gradients_are_those_of_all_positions(kv_heads: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    batch, length = draw.integers(1, 5), draw.integers(1, 20)
    used = torch.from_numpy(draw.random((batch, length)) < draw.random())
    used[0, draw.integers(length)] = True
    assert_same(llama(kv_heads), torch.randn(batch, length, 32), used)


def test_rows_without_a_target_are_harmless() -> None:
    used = torch.zeros(3, 7, dtype=torch.bool)
    used[1, 2:5] = True
    assert_same(llama(), torch.randn(3, 7, 32), used)
    loss, grads, inputs = passed(llama(), torch.randn(3, 7, 32), torch.zeros_like(used), whole=False)
    # A process that has nothing to learn still gives a gradient to every weight, as the others wait for it.
    assert loss == 0 and not inputs.any() and not any(grad.any() for grad in grads.values())
    assert "model.layers.2.mlp.up_proj.weight" in grads


def test_gradient_checkpointing_changes_nothing() -> None:
    model, embeds, used = llama(), torch.randn(2, 9, 32), torch.rand(2, 9) < 0.4
    plain = passed(model, embeds, used, whole=False)
    kept = {name: grad.clone() for name, grad in plain[1].items()}
    model.gradient_checkpointing_enable()
    runs: list[int] = []
    model.model.layers[-1].self_attn.q_proj.register_forward_hook(lambda *_: runs.append(1))
    again = passed(model, embeds, used, whole=False)
    assert len(runs) == 2
    assert torch.equal(plain[0], again[0]) and torch.equal(plain[2], again[2])
    assert all(torch.equal(grad, again[1][name]) for name, grad in kept.items())


def test_long_contexts_turn_as_the_config_says() -> None:
    scaled = {
        "rope_type": "llama3",
        "rope_theta": 1e4,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8,
    }
    assert_same(llama(rope_parameters=scaled), torch.randn(2, 16, 32), torch.rand(2, 16) < 0.3)


def test_padding_is_not_computed() -> None:
    model, used = llama(), torch.zeros(3, 40, dtype=torch.bool)
    used[0, 39] = used[1, 2] = used[2, 4] = True
    rows: list[int] = []
    model.model.layers[0].mlp.register_forward_hook(lambda _, given, __: rows.append(given[0].numel() // 32))
    assert_same(model, torch.randn(3, 40, 32), used)
    # All positions in the plain way, then those up to each row's last used one.
    assert rows == [3 * 40, 40 + 3 + 5]


def test_the_last_layer_sees_only_what_is_used_and_a_frozen_llama_gets_no_gradients() -> None:
    model, used = llama(), torch.zeros(2, 12, dtype=torch.bool)
    used[0, 3] = used[1, 8] = used[1, 10] = True
    rows: dict[str, int] = {}
    for name, part in model.model.layers[-1].named_modules():
        if isinstance(part, torch.nn.Linear):
            part.register_forward_hook(
                lambda module, given, _, name=name: rows.update({name: given[0].numel() // module.in_features})
            )
    model.requires_grad_(False)
    _, grads, inputs = passed(model, torch.randn(2, 12, 32), used, whole=False)
    short = {name.rpartition(".")[2]: count for name, count in rows.items()}
    # Up to each row's last used position: nothing that is used sees what stands behind it.
    before = {"k_proj": 4 + 11, "v_proj": 4 + 11}
    assert short == before | dict.fromkeys(["q_proj", "o_proj", "gate_proj", "up_proj", "down_proj"], 3)
    assert not grads and inputs.any()


@pytest.mark.parametrize("autocast", [True, False])
def test_half_precision_attends_in_float32_on_a_cpu(autocast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    attended = []

    def attend(*given: Tensor, **options: Any) -> Tensor:
        attended.append({one.dtype for one in given} | {torch.is_autocast_enabled("cpu")})
        return plain(*given, **options)

    plain = F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", attend)
    model, embeds, used = llama(2).model, torch.randn(2, 9, 32), torch.ones(2, 9, dtype=torch.bool)
    if not autocast:
        model, embeds = model.bfloat16(), embeds.bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        states_before_targets(model, embeds, used).sum().backward()
        assert torch.is_autocast_enabled("cpu") is autocast
    assert attended and all(one == {torch.float32, False} for one in attended)

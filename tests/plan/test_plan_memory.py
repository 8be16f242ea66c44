"""What a plan foretells of a GPU's memory against a step of training on a pretended one, at the paper's shapes."""

from __future__ import annotations

import gc
import warnings
from typing import Any

import pytest
from pretend_gpu import GPU
from pretend_training import step_of

from mllm_eval.catalog import load_encoder, load_llm, load_recipe
from mllm_eval.plan import PlanOptions, make_plan

WEBSSL = "webssl-dino7b-full8b-518"
WAYS = {None: "no ZeRO", "zero2": "ZeRO-2", "zero3": "ZeRO-3"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("encoder", "recipe", "number", "changes"),
    [
        (WEBSSL, "webssl-paper", 1, {}),
        (WEBSSL, "webssl-paper", 2, {}),
        (WEBSSL, "webssl-paper", 2, {"micro_batch": 1, "gradient_checkpointing": False, "features": "store"}),
        (WEBSSL, "lora", 2, {"micro_batch": 1, "gradient_checkpointing": False}),
        ("mini-dino", "mini", 1, {}),
        ("mini-dino", "mini", 2, {}),
    ],
)
def test_memory_is_that_of_a_step_at_its_true_shapes(
    encoder: str, recipe: str, number: int, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    warnings.simplefilter("ignore")
    chosen = load_recipe(recipe)
    name = f"stage{number}"
    chosen = chosen.model_copy(update={name: getattr(chosen, name).model_copy(update=changes)})
    monkeypatch.setattr("mllm_eval.plan.estimate.load_recipe", lambda _: chosen)
    stage = getattr(chosen, name)
    gc.collect()
    before = GPU.now
    measured = step_of(load_encoder(encoder, chosen), chosen, stage, load_llm(chosen.llm))
    gc.collect()
    assert GPU.now == before, "a step leaves something behind"
    gpus = 8 if stage.deepspeed else 1
    plan = make_plan(encoder, recipe, options=PlanOptions(gpus=f"{gpus}xH100", rows=(6400, 6400)))
    (way,) = (
        one
        for one in plan.memory[f"stage {number}"]
        if one.way == WAYS[stage.deepspeed] and one.checkpointing == stage.gradient_checkpointing
    )
    shared = gpus if stage.deepspeed == "zero3" else 1
    print(way, measured)
    assert way.states.weights == pytest.approx(measured.weights / shared, rel=0.01)
    assert way.activations.kept == pytest.approx(measured.kept, rel=0.1)
    assert way.activations.peak == pytest.approx(measured.peak, rel=0.1)
    # Each process loads all of it in its machine's memory.
    assert plan.loading[f"stage {number}"] == pytest.approx(measured.weights, rel=0.01)

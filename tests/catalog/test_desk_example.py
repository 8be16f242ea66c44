"""The example docs/examples/desk: its yaml files load, and say what the converter writes."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest

from mllm_eval.catalog import load_encoder, load_llm, load_recipe

HERE = Path(__file__).parents[2] / "docs" / "examples" / "desk"


@pytest.fixture(autouse=True)
def path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLLM_EVAL_PATH", str(HERE))


def test_its_recipes_are_the_desks_on_another_set() -> None:
    desk, mini, trial = map(load_recipe, ("desk", "desk-miniature", "desk-trial"))
    assert (mini.template, mini.tokens, mini.projector, mini.standardize) == ("chatml", 64, "mlp2x_gelu", True)
    assert (mini.data, desk.data, trial.tokens) == ("mini", "hub", 16)
    llm = load_llm(mini.llm)
    assert (llm.quantisation, llm.params) == ("Q4_1+Q8_0", load_llm("smollm2-135m-instruct").params)
    rows = sum(stage.steps_for(0) * stage.batch for stage in (trial.stage1, trial.stage2))
    assert rows == 352


def test_its_encoders_differ_in_their_weights_alone() -> None:
    real, untrained = load_encoder("desk-dinov2-small"), load_encoder("desk-untrained")
    assert {**real.identity(), "name": ""} == {**untrained.identity(), "name": ""}
    assert real.params == load_encoder("dinov2-small").params == 22_056_576
    assert real.weights != untrained.weights


def test_an_untrained_encoder_is_the_same_each_time() -> None:
    made = runpy.run_path(str(HERE / "convert.py"))["untrained"]
    first, again = made(), made()
    assert sum(one.numel() for one in first.values()) == 22_056_576
    assert all(np.array_equal(first[name], again[name]) for name in first)

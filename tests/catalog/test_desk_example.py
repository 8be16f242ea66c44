"""The example docs/examples/desk: its yaml files load, and say what the converter writes."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mllm_eval.catalog import load_encoder, load_llm, load_recipe
from mllm_eval.model import VLM
from mllm_eval.saved import saved_runs

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


def test_its_longer_recipe_has_captions_in_both_stages() -> None:
    short, long = map(load_recipe, ("desk-miniature", "desk-captions"))
    assert (short.stage1.steps, short.stage2.steps, long.stage1.steps, long.stage2.steps) == (100, 200, 300, 360)
    assert long.stage2.data == [*short.stage1.data, *short.stage2.data] and long.llm == short.llm


@pytest.mark.slow
def test_the_losses_of_a_run_are_those_of_rows_it_has_not_read(
    own_home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (run,) = saved_runs()
    monkeypatch.setattr("sys.argv", ["sight.py", run.hash, "--rows", "8"])
    runpy.run_path(str(HERE / "sight.py"), run_name="__main__")
    assert "train.jsonl: all 16 rows were trained on" in capsys.readouterr().out
    path = own_home / "data/mine/train.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(line.replace("red", "red or blue") for line in [*lines * 3, *lines[:2]]) + "\n")
    shown: list[torch.Tensor] = []
    forward = VLM.forward

    def seeing(self: VLM, *args: Any, **given: Any) -> Any:
        shown.append(given["pixel_values"])
        return forward(self, *args, **given)

    monkeypatch.setattr(VLM, "forward", seeing)
    runpy.run_path(str(HERE / "sight.py"), run_name="__main__")
    own, others = shown
    assert torch.equal(others, own.roll(1, 0)) and not torch.equal(others, own)
    pattern = r"train.jsonl: (\d) rows, (\d+) tokens, (\S+) with the right image, (\S+) with another"
    told = re.search(pattern, capsys.readouterr().out)
    assert told is not None
    rows, tokens, right, other = map(float, told.groups())
    # Of 50 rows the plans of both stages read 48 at most. The LLM is random: its loss is near that of a guess.
    assert 1 <= rows <= 8 and tokens == len("red or blue") * rows + rows
    assert 2 < right < 20 and 2 < other < 20


def test_its_encoders_differ_in_their_weights_alone() -> None:
    real, untrained = load_encoder("desk-dinov2-small"), load_encoder("desk-untrained")
    assert {**real.identity(), "name": ""} == {**untrained.identity(), "name": ""}
    assert real.params == load_encoder("dinov2-small").params == 22_056_576
    assert real.weights != untrained.weights


@pytest.mark.slow
def test_an_untrained_encoder_is_the_same_each_time() -> None:
    made = runpy.run_path(str(HERE / "convert.py"))["untrained"]
    first, again = made(), made()
    assert sum(one.numel() for one in first.values()) == 22_056_576
    assert all(np.array_equal(first[name], again[name]) for name in first)

"""A plan of one run on several machines: a line each, by the peak of the recipe's dtype."""

from __future__ import annotations

import json
import re
from pathlib import Path

import opened
import pytest
import yaml
from typer.testing import CliRunner

from mllm_eval.catalog import load_llm, load_recipe
from mllm_eval.cli.app import app
from mllm_eval.errors import UserError
from mllm_eval.plan import PlanOptions, make_plan
from mllm_eval.plan.gpus import parse_gpus

MACHINES = "1xlaptop,1x4090,1xH100"


def test_a_desk_is_planned_for_a_laptop_and_two_gpus() -> None:
    words = ["plan", "dinov2-small", "--recipe", "desk", "--gpus", MACHINES]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    first, *lines, last = done.output.splitlines()
    assert first == "dinov2-small, recipe desk, LLM smollm2-135m-instruct" and last.startswith("assumed: 40% of")
    hours = {}
    for line in lines:
        name, said = re.match(r"  1x(\w+): ([\d.]+) h \(features .*stage 2 [\d.]+ GiB", line).groups()  # type: ignore[union-attr]
        hours[name] = float(said)
    assert list(hours) == ["laptop", "4090", "H100"] and hours["laptop"] > 50 * hours["H100"]
    # It fits all three.
    assert "does not fit" not in done.output
    found = json.loads(CliRunner().invoke(app, [*words, "--json"]).output)
    assert [one["gpus"] for one in found] == MACHINES.split(",")


def test_no_number_is_cut_in_a_narrow_terminal() -> None:
    done = CliRunner().invoke(app, ["plan", "mini-dino", "--gpus", "1xA100"], env={"COLUMNS": "40"})
    assert done.exit_code == 0 and "…" not in done.output
    rows = [line.split() for line in done.output.splitlines() if line.startswith(("no ZeRO ", "ZeRO-3 +host "))]
    assert len(rows) == 4
    for row in rows:
        assert len([float(number) for number in row[2:]]) == 10


def test_hours_are_by_the_peak_of_the_recipes_dtype() -> None:
    _, _, gpu = parse_gpus("1xH100")
    assert (gpu.peak("float32"), gpu.peak("bfloat16")) == (67, 989.4)
    plan = make_plan("dinov2-small", "desk", options=PlanOptions(gpus="1xH100", mfu=1.0))
    step = next(one for one in plan.steps if one.name == "stage 1")
    assert abs(step.hours - step.flops / 67e12 / 3600) < 1e-9


def test_the_desks_llms_are_what_their_yaml_says() -> None:
    for name in ("smollm2-135m-instruct", "smollm2-360m-instruct", "llama-3.2-1b-instruct"):
        llm = load_llm(name)
        assert llm.weights.revision and llm.architecture is not None and llm.architecture.tied
    lora = load_recipe("desk-lora")
    assert lora.tokens == 64 and lora.template == "chatml" and lora.stage2.lora is not None
    assert "lm_head" not in lora.stage2.lora.targets


def test_a_plan_for_several_machines_reads_the_training_sets_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLLM_EVAL_DATA", str(tmp_path))
    recipe = load_recipe("mini")
    paths = {
        tmp_path / data.path.removeprefix("data:") for stage in (recipe.stage1, recipe.stage2) for data in stage.data
    }
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"conversations": [{"value": "x" * 40}]}) + "\n\n")
    with opened.opened() as counts:
        done = CliRunner().invoke(app, ["plan", "mini-dino", "--gpus", MACHINES])
    assert done.exit_code == 0, done.output
    assert "stage 1: 10 text tokens a row, from 1 rows" in done.output
    assert {path: counts[str(path)] for path in paths} == dict.fromkeys(paths, 1)
    with opened.opened() as counts:
        given = ["--rows1", "64", "--rows2", "64", "--text-tokens", "20"]
        done = CliRunner().invoke(app, ["plan", "mini-dino", "--gpus", "1xH100", *given])
    assert done.exit_code == 0, done.output
    # What is given need not be counted.
    assert "assumed: stage 1: 64 rows, as given; stage 1: 20 text tokens a row, as given" in done.output


@pytest.mark.parametrize(("deepspeed", "way"), [
    ("zero2", "ZeRO-2"), ("zero3", "ZeRO-3"), ("zero2-offload", "ZeRO-2 +host"), ("zero3-offload", "ZeRO-3 +host"),
    (None, "no ZeRO"), ("mine", None),
])  # fmt: skip
def test_the_recipes_own_way_of_sharding_is_found_by_what_its_json_says(
    deepspeed: str | None, way: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for kind in ("deepspeed", "recipes"):
        (tmp_path / "configs" / kind).mkdir(parents=True)
    (tmp_path / "configs/deepspeed/mine.json").write_text('{"zero_optimization": {"stage": 1}}')
    (tmp_path / "configs/recipes/own.yaml").write_text(
        yaml.safe_dump(
            {"base": "mini", "name": "own", "stage1": {"deepspeed": deepspeed, "gradient_checkpointing": True}}
        )
    )
    words = ["plan", "mini-dino", "--recipe", "own", "--gpus", "1xA100,1xH100", "--rows1", "64", "--rows2", "64"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    plan = make_plan("mini-dino", "own", options=PlanOptions(gpus="1xH100", rows=(64, 64)))
    chosen, other = plan.own["stage 1"], plan.own["stage 2"]
    assert other is not None and (other.way, other.checkpointing) == ("no ZeRO", False)
    if way is None:
        assert chosen is None and done.output.count("stage 1 is sharded in a way that is not planned (mine, ") == 2
    else:
        assert chosen is not None and (chosen.way, chosen.checkpointing) == (way, True)
        assert "not planned" not in done.output


def test_a_sharding_that_nobody_knows_is_refused_with_a_near_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs/recipes").mkdir(parents=True)
    (tmp_path / "configs/recipes/own.yaml").write_text(
        yaml.safe_dump({"base": "mini", "name": "own", "stage1": {"deepspeed": "zero4"}})
    )
    with pytest.raises(UserError, match="deepspeed config 'zero4' is unknown"):
        make_plan("mini-dino", "own", options=PlanOptions(gpus="1xH100", rows=(64, 64)))

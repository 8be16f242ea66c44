"""A plan of one run on several machines: a line each, by the peak of the recipe's dtype."""

from __future__ import annotations

import json
import re

from typer.testing import CliRunner

from mllm_eval.catalog import load_llm, load_recipe
from mllm_eval.cli.app import app
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

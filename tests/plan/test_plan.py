"""What a plan foretells against what was measured: tensors that were counted, and what the command prints of it."""

from __future__ import annotations

import csv
import gc
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from measured_step import DEPTH, VOCAB, WIDTH, Trained, joint, shape
from places import ROOT
from tiny_models import make_conversations, make_recipe
from typer.testing import CliRunner

from mllm_eval.catalog import load_benchmark, load_encoder, load_llm, load_recipe, names, paper_benchmarks
from mllm_eval.cli.app import app
from mllm_eval.errors import UserError
from mllm_eval.features.store import FeatureStore
from mllm_eval.model import targets
from mllm_eval.plan import PlanOptions, make_plan
from mllm_eval.plan.gpus import parse_gpus
from mllm_eval.plan.memory import Parameters, Passes, Precision, activations, states
from mllm_eval.plan.workload import made_rows, reference_sizes
from mllm_eval.storage import SHIPPED

CLOSE = 0.15
MEMORY = 0.1


def kept_bytes(step: Trained) -> int:
    """Bytes that autograd keeps of a forward pass, each storage once, weights left out."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in step.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        step.loss()
    return sum(storage.nbytes() for storage in kept.values())


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU attends in the precision of the rest, which is what is planned for."""
    monkeypatch.setattr(targets, "attends_in_float32", lambda device: False)


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize("train_llm", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_activations_are_those_that_autograd_keeps(train_llm: bool, dtype: str) -> None:
    step = Trained(train_llm, getattr(torch, dtype))
    zero = 0 if dtype == "float32" else 2
    foretold = activations(shape(), joint(), step.batch(), Precision.of(dtype, zero), Passes(train_llm, False))
    assert foretold.kept == pytest.approx(kept_bytes(step), rel=MEMORY)


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize("train_llm", [True, False])
def test_activations_under_autocast(train_llm: bool) -> None:
    step = Trained(train_llm)
    weights = sum(p.numel() for p in step.parameters()) - VOCAB * WIDTH
    with torch.autocast("cpu", torch.bfloat16):
        measured = kept_bytes(step)
    foretold = activations(shape(), joint(), step.batch(), Precision.of("bfloat16", 0), Passes(train_llm, False))
    # The weights' bfloat16 copies are counted with the weights.
    assert foretold.kept + 2 * weights == pytest.approx(measured, rel=MEMORY)


def live_bytes() -> int:
    gc.collect()
    found = {}
    for thing in gc.get_objects():
        if type(thing) in (torch.Tensor, torch.nn.Parameter):
            storage = thing.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
    return sum(found.values())


def test_checkpointing_keeps_a_blocks_input_and_makes_the_rest_again() -> None:
    step = Trained(True)
    plain = kept_bytes(step)
    step.llm.train()
    step.llm.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    sizes: list[int] = []
    original = torch.utils.checkpoint.CheckpointFunction.forward

    def forward(context: Any, run: Any, preserve: Any, *tensors: Any) -> Any:
        sizes.append(sum(t.nbytes for t in tensors if isinstance(t, torch.Tensor)))
        return original(context, run, preserve, *tensors)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.utils.checkpoint.CheckpointFunction, "forward", staticmethod(forward))
        outside = kept_bytes(step)
    assert len(sizes) == DEPTH
    foretold = activations(shape(), joint(), step.batch(), Precision.of("float32", 0), Passes(True, True))
    assert foretold.kept == pytest.approx(outside, rel=MEMORY)
    whole = activations(shape(), joint(), step.batch(), Precision.of("float32", 0), Passes(True, False))
    # Beside a block's activations there are the gradients of its own backward pass.
    passing = whole.again
    assert foretold.again - passing == pytest.approx((plain - outside) / DEPTH + sizes[0], rel=CLOSE)
    assert foretold.peak < whole.peak


@pytest.mark.parametrize("train_llm", [True, False])
def test_states_are_the_tensors_that_training_holds(train_llm: bool) -> None:
    step = Trained(train_llm)
    trained = [parameter for parameter in step.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trained)
    step.loss().backward()
    optimiser.step()
    foretold = states(
        Parameters(sum(p.numel() for p in trained), sum(p.numel() for p in step.parameters() if not p.requires_grad)),
        "float32", 0, 1,
    )  # fmt: skip
    assert foretold.weights == sum(p.nbytes for p in step.parameters())
    assert foretold.gradients == sum(p.grad.nbytes for p in trained if p.grad is not None)
    held = sum(value.nbytes for state in optimiser.state.values() for value in state.values())
    assert foretold.optimiser == pytest.approx(held, rel=CLOSE)


def test_zero_shares_out_as_its_paper_prints() -> None:
    # Rajbhandari et al. 2020, figure 1: 7.5 billion parameters on 64 GPUs, GB of 10^9 bytes.
    def gigabytes(zero: Any) -> float:
        held = states(Parameters(7_500_000_000, 0, 0), "bfloat16", zero, 64)
        # The paper's gradients are summed in the weights' type, two bytes each; here in float32.
        return (held.weights + held.gradients / 2 + held.optimiser) / 1e9

    assert gigabytes(2) == pytest.approx(16.6, abs=0.05)
    assert gigabytes(3) == pytest.approx(1.88, abs=0.005)


def test_zero_is_what_deepspeeds_own_estimators_say() -> None:
    from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs as zero3
    from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs as zero2

    for offload in (False, True):
        needs = {
            2: zero2(1_000_000_000, num_gpus_per_node=8, cpu_offload=offload),
            3: zero3(1_000_000_000, 1_000_000, num_gpus_per_node=8, cpu_offload=offload, cpu_offload_params=False),
        }
        for zero, (_, of_a_gpu, *_) in needs.items():
            held = states(Parameters(1_000_000_000, 0, 1_000_000), "bfloat16", zero, 8, offload=offload)  # type: ignore[arg-type]
            assert held.lasting + held.gathered == pytest.approx(of_a_gpu, rel=CLOSE), (zero, offload)


def test_frozen_weights_are_held_but_not_trained() -> None:
    held = states(Parameters(10, 1000, 0), "bfloat16", 2, 4)
    assert held.weights == 2 * 1010
    assert held.optimiser == 30
    assert states(Parameters(10, 1000, 0), "bfloat16", 3, 4).weights == 505


def test_the_store_is_as_large_as_the_store_makes_it() -> None:
    encoder = load_encoder("mini-dino")
    plan = make_plan("mini-dino", options=PlanOptions(gpus="1xA100", rows=(1000, 1000)))
    assert plan.store["one image"] == FeatureStore.of(encoder, "0", "float32").row_bytes
    assert plan.store["evaluation"] == plan.store["one image"] * 2745


def test_sizes_of_the_benchmarks_are_the_published_ones() -> None:
    sizes = reference_sizes()
    assert list(sizes) == paper_benchmarks()
    with open(SHIPPED / "configs/reference/benchmarks.csv", encoding="utf-8", newline="") as file:
        published = [row["n_scored"] for row in csv.DictReader(file)]
    for (name, size), text in zip(sizes.items(), published, strict=True):
        pins = load_benchmark(name).data
        rows = {pin.rows for pin in pins.values()}
        assert str(size.questions) in re.findall(r"\d+", text) or size.questions in rows, name
        assert size.images <= size.questions
    total = sum(size.questions for size in sizes.values())
    assert 55_000 < total < 65_000


def test_more_gpus_mean_less_memory_each_and_less_time() -> None:
    one, eight = (
        make_plan("mini-dino", options=PlanOptions(gpus=gpus, micro_batch=1, rows=(6400, 6400)))
        for gpus in ("1xH100", "8xH100")
    )
    for at in (2, 6):
        assert eight.memory["stage 2"][at].gpu < one.memory["stage 2"][at].gpu
    assert eight.hours == pytest.approx(one.hours / 8)
    assert eight.cost == pytest.approx(one.cost)
    double = make_plan(
        "mini-dino", options=PlanOptions(gpus="1xH100", micro_batch=1, rows=(6400, 6400), mfu=0.8, price=5)
    )
    assert double.steps[1].hours == pytest.approx(one.steps[1].hours / 2)


@pytest.mark.slow
def test_every_encoder_has_a_plan() -> None:
    for name in names("encoders"):
        plan = make_plan(name, options=PlanOptions(gpus="1xH100", rows=(640, 640)))
        assert plan.parameters["encoder"] == load_encoder(name).params
        assert plan.hours > 0


def call(*words: str) -> Any:
    return CliRunner().invoke(app, ["plan", *words])


@pytest.mark.slow
def test_the_command_prints_it_and_as_json() -> None:
    words = ["mini-dino", "--gpus", "1xA100", "--rows1", "6.4k", "--rows2", "6400"]
    shown = call(*words)
    assert shown.exit_code == 0, shown.output
    for part in ("encoder 1,275,392", "ZeRO-3 +host", "features if all are kept", "40% MFU", "assumed:"):
        assert part in shown.output
    found = json.loads(call(*words, "--json").output)
    assert found["parameters"]["llm"] == load_llm("mini-llama").params
    assert {way["way"] for way in found["memory"]["stage 1"]} >= {"no ZeRO", "ZeRO-2", "ZeRO-3"}
    assert len(found["benchmarks"]) == 16


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["mini-dino", "--gpus", "8H100"], "write their number and name, such as 8xH100"),
        (["mini-dino", "--gpus", "8xH10"], "'H10' is unknown"),
        (["mini-dino", "--mfu", "40"], "lies between 0 and 1"),
        (
            ["mini-dino", "--gpus", "3xH100", "--rows1", "640", "--rows2", "640"],
            "is not a multiple of micro_batch 32 x 3 GPUs",
        ),
        (["mini-dino", "--rows1", "many"], "write a number such as"),
    ],
)
def test_mistakes_are_one_line(words: list[str], message: str) -> None:
    shown = call(*words)
    assert shown.exit_code == 2
    assert message in shown.stderr
    assert shown.stderr.count("\n") == 1


@pytest.mark.slow
def test_the_commands_of_the_documentation_plan_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLLM_EVAL_DATA", str(tmp_path))
    text = (ROOT / "docs" / "plan.md").read_text(encoding="utf-8")
    asked = [line.split()[1:] for line in text.splitlines() if line.startswith("    mllm-eval plan ")]
    for line in text.splitlines():
        if line.startswith("    make plan "):
            said = dict(word.split("=") for word in line.split()[2:])
            asked.append(["plan", said.pop("ENCODER"), *(w for k, v in said.items() for w in (f"--{k.lower()}", v))])
    assert len(asked) == 3
    for words in [*asked, ["plan", "mini-random"]]:
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, (words, done.output)


def test_rows_of_the_miniature_are_those_that_are_made() -> None:
    from mllm_eval.miniature.build import ALIGNMENT_ROWS, INSTRUCTION_ROWS

    named = [data.path for stage in (load_recipe("mini").stage1, load_recipe("mini").stage2) for data in stage.data]
    assert made_rows() == dict(zip(named, (ALIGNMENT_ROWS, INSTRUCTION_ROWS), strict=True))


@pytest.mark.parametrize(("gpus", "sizes"), [("8xH100", (4, 2)), ("2xH100", (16, 8)), ("1xA100", ())])
def test_gpus_share_the_batch_in_smaller_pieces_and_the_plan_says_so(gpus: str, sizes: tuple[int, ...]) -> None:
    said = [one for one in make_plan("mini-dino", options=PlanOptions(gpus=gpus)).assumed if "micro_batch" in one]
    assert len(said) == len(sizes)
    for number, (text, size) in enumerate(zip(said, sizes, strict=True), start=1):
        assert text.startswith(f"stage {number}: micro_batch {size}, as ")
    with pytest.raises(UserError, match="batch 32 is not a multiple of micro_batch 8 x 8 GPUs"):
        make_plan("mini-dino", options=PlanOptions(gpus="8xH100", micro_batch=8))


def test_rows_that_nobody_states_are_asked_for(tmp_path: Path) -> None:
    data, images = make_conversations(tmp_path)
    recipe = make_recipe(data, images)
    from mllm_eval.plan.workload import stage_load

    assert stage_load(recipe, 1, recipe.stage1).rows == 24
    gone = recipe.stage2.model_copy(update={"data": [recipe.stage2.data[0].model_copy(update={"path": "gone.jsonl"})]})
    with pytest.raises(UserError, match=r"gone\.jsonl is not here .* `about`; say how many with --rows2"):
        stage_load(recipe, 2, gone)
    assert stage_load(recipe, 2, gone, rows=400).assumed


def test_gpus_are_read_in_any_case() -> None:
    assert parse_gpus("16 X h200")[:2] == (16, "H200")

"""Several processes, plain and under ZeRO-2 and ZeRO-3, give the losses and the weights of one.

The encoder of the sharded runs is part of the model (`features: live`), frozen and sharded with the rest.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import deepspeed
import pytest
import torch
import yaml
from forked import run_ranks
from safetensors.torch import load_file
from tiny_models import make_conversations, make_encoder, make_llm, make_recipe
from torch.optim.optimizer import register_optimizer_step_pre_hook

from mllm_eval.model import load_checkpoint
from mllm_eval.plan.memory import Parameters, states
from mllm_eval.run import Run
from mllm_eval.train import train

STAGE = {"batch": 8, "steps": 6, "weight_decay": 0.1}
# Different rates and decays of the groups: what goes on from a checkpoint must find each group's own.
CHANGES: dict[str, Any] = {
    "standardize": False,
    "stage1": STAGE,
    "stage2": {**STAGE, "projector_lr": 1e-3},
}
SHARDED = {"features": "live", "gradient_checkpointing": True}


def held(engine: Any) -> dict[str, int]:
    """Bytes that DeepSpeed's engine holds on this process, each storage once, by what they are for; and parameters."""
    zero = engine.optimizer
    seen: set[int] = set()

    def size(thing: Any) -> int:
        if isinstance(thing, dict):
            return sum(map(size, thing.values()))
        if isinstance(thing, list | tuple):
            return sum(map(size, thing))
        if not isinstance(thing, torch.Tensor) or (place := thing.untyped_storage().data_ptr()) in seen:
            return 0
        seen.add(place)
        return thing.untyped_storage().nbytes()

    parameters = list(engine.module.parameters())
    third = engine.zero_optimization_stage() == 3
    stepped = zero.fp32_partitioned_groups_flat if third else zero.single_partition_of_fp32_groups
    counts = [(getattr(one, "ds_numel", one.numel()), one.requires_grad) for one in parameters]
    return {
        "trained": sum(count for count, trains in counts if trains),
        "frozen": sum(count for count, trains in counts if not trains),
        "weights": size([getattr(one, "ds_tensor", one) for one in parameters]),
        "passing": size([one.grad for one in stepped]),
        "optimiser": size(stepped) + size(dict(zero.optimizer.state)),
        # What else there is: gradients as they were reduced, and buffers.
        "gradients": sum(size(value) for value in vars(zero).values()),
    }


def train_as_rank(
    configs: dict[str, str],
    die: tuple[str, int] | None = None,
    logits: Path | None = None,
    counted: Path | None = None,
) -> int:
    """A process of a training: made to die after a step, and to say what it answers before weights are gathered.

    `counted`: a folder for the most bytes that it holds as its optimiser steps a group.
    """
    from mllm_eval.train import stages, trainer, worker

    steps: list[dict[str, int]] = []
    if counted is not None:
        engines: list[Any] = []
        initialize = deepspeed.initialize

        def kept(*args: Any, **options: Any) -> Any:
            made = initialize(*args, **options)
            engines.append(made[0])
            return made

        deepspeed.initialize = kept
        register_optimizer_step_pre_hook(lambda *_: steps.append(held(engines[-1])))

    add = stages.StageLog.add

    def add_or_die(self: Any, step: int, *rest: Any) -> None:
        add(self, step, *rest)
        if counted is not None:
            (counted / f"{self.path.parent.name}.json").write_text(
                json.dumps(max(steps, key=lambda one: sum(one.values())))
            )
        if (self.path.parent.name, step) == die:
            os._exit(9)

    stages.StageLog.add = add_or_die  # type: ignore[method-assign]
    whole_state = trainer.StageTrainer.whole_state

    def answered(self: Any) -> Any:
        if logits is not None and self.stage.train_llm:
            model = self.model_wrapped
            model.eval()
            image = self.model.config.image_token_id
            ids = torch.tensor([[5, *[image] * 9, 20, 30, 40]])
            pixels = torch.linspace(-1, 1, 3 * 28 * 28).view(1, 3, 28, 28)
            with torch.no_grad():
                found = model(input_ids=ids, pixel_values=pixels).logits
            if self.is_world_process_zero():
                torch.save((ids, pixels, found), logits)
        return whole_state(self)

    trainer.StageTrainer.whole_state = answered  # type: ignore[method-assign]
    return worker.main([word for kind, path in configs.items() for word in (f"--{kind}", path)])


def write_configs(folder: Path, sharded: bool, stage2: dict[str, Any]) -> dict[str, str]:
    """The yaml files of a run of several processes, by what they are of."""
    data, images = make_conversations(folder / "data")
    stages: dict[str, Any] = {}
    for name, zero in (("stage1", "zero2"), ("stage2", "zero3")):
        more = {**SHARDED, "deepspeed": zero} if sharded else {}
        stages[name] = {**CHANGES[name], "micro_batch": 2, **more}
    stages["stage2"] |= stage2
    models = {
        "encoder": make_encoder(folder / "encoder"),
        "llm": make_llm(folder / "llm"),
        "recipe": make_recipe(data, images, **{**CHANGES, **stages}),
    }
    paths = {}
    for kind, model in models.items():
        path = folder / f"{model.name}.yaml"
        path.write_text(yaml.safe_dump(model.model_dump(mode="json", exclude={"assumptions"})))
        paths[kind] = str(path)
    return paths


def run_processes(
    configs: dict[str, str],
    folder: Path,
    size: int,
    die: tuple[str, int] | None = None,
    logits: Path | None = None,
    counted: Path | None = None,
) -> None:
    """A training on so many processes; `die` after a step of a stage."""
    # Empty: nothing may be compiled.
    environment = {"TORCH_EXTENSIONS_DIR": str(folder / "extensions")}
    codes = run_ranks(size, folder, train_as_rank, configs, die, logits, counted, environment=environment)
    assert codes[0] == (9 if die else 0), (folder / "rank0.log").read_text()[-3000:]


def results_of(run: Run) -> tuple[list[list[float]], dict[str, torch.Tensor]]:
    logs = [(run.stage_dir(stage) / "log.jsonl").read_text().splitlines() for stage in (1, 2)]
    losses = [[json.loads(line)["loss"] for line in lines] for lines in logs]
    return losses, load_file(run.checkpoint / "model.safetensors")


def finished(configs: dict[str, str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("MLLM_EVAL_RESULTS", str(folder / "results"))
    assert not list((folder / "extensions").rglob("*.so"))
    return Run.of(**configs, seed=3)


@pytest.fixture(scope="module")
def one_process(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[list[float]], dict[str, torch.Tensor]]:
    folder = tmp_path_factory.mktemp("one")
    data, images = make_conversations(folder / "data")
    stages = {name: {**CHANGES[name], "micro_batch": 8} for name in ("stage1", "stage2")}
    run = Run(
        make_encoder(folder / "encoder"),
        make_recipe(data, images, **{**CHANGES, **stages}),
        make_llm(folder / "llm"),
        3,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLLM_EVAL_RESULTS", str(folder / "results"))
        train(run)
        return results_of(run)


def assert_same(run: Run, expected: tuple[list[list[float]], dict[str, torch.Tensor]]) -> None:
    losses, tensors = results_of(run)
    for stage in (0, 1):
        assert losses[stage] == pytest.approx(expected[0][stage], rel=1e-4)
    whole = expected[1]
    assert set(tensors) == set(whole)
    for name, tensor in whole.items():
        if name.startswith("encoder."):
            assert torch.equal(tensors[name], tensor), name
        else:
            torch.testing.assert_close(tensors[name], tensor, rtol=2e-2, atol=2e-3)


@pytest.mark.slow
def test_four_processes_give_what_one_gives(
    one_process: tuple[list[list[float]], dict[str, torch.Tensor]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = write_configs(tmp_path, False, {})
    run_processes(configs, tmp_path, 4)
    assert_same(finished(configs, tmp_path, monkeypatch), one_process)


@pytest.mark.slow
def test_two_processes_give_what_one_gives_in_each_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # 24 rows, 20 with an image: a step of 5 micro-batches over the end of an epoch, which is filled up.
    stage = {"batch": 10, "micro_batch": 1, "steps": 5, "last_step": "fill", "order": "random"}
    stages = {"stage1": stage, "stage2": {**stage, "order": "modality"}}
    data, images = make_conversations(tmp_path / "data")
    models = {
        "encoder": make_encoder(tmp_path / "encoder"),
        "llm": make_llm(tmp_path / "llm"),
        "recipe": make_recipe(data, images, **stages),
    }
    configs = {}
    for kind, model in models.items():
        configs[kind] = str(tmp_path / f"{model.name}.yaml")
        Path(configs[kind]).write_text(yaml.safe_dump(model.model_dump(mode="json", exclude={"assumptions"})))
    run_processes(configs, tmp_path, 2)
    several = finished(configs, tmp_path, monkeypatch)
    found = results_of(several)
    monkeypatch.setenv("MLLM_EVAL_RESULTS", str(tmp_path / "one"))
    train(several)
    for losses, expected in zip(found[0], results_of(several)[0], strict=True):
        assert losses == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("clipped_at", [1e-9, 100.0])
def test_a_json_that_says_nothing_trains_as_the_recipe_says(
    clipped_at: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Gradients of 1e-9 are lost in AdamW's epsilon: clipping at DeepSpeed's or accelerate's own 1.0 shows at once.
    zero3 = {"stage": 3, "stage3_gather_16bit_weights_on_model_save": True}
    (tmp_path / "configs" / "deepspeed").mkdir(parents=True)
    for name, zero in (("bare2", {"stage": 2}), ("bare3", zero3)):
        text = json.dumps({"zero_optimization": zero})
        (tmp_path / "configs" / "deepspeed" / f"{name}.json").write_text(text)
    data, images = make_conversations(tmp_path / "data")
    models: dict[str, Any] = {"encoder": make_encoder(tmp_path / "encoder"), "llm": make_llm(tmp_path / "llm")}
    losses = []
    for bare in (False, True):
        stages = {
            stage: {
                **CHANGES[stage],
                "micro_batch": 4,
                "max_grad_norm": clipped_at,
                "deepspeed": name if bare else None,
            }
            for stage, name in (("stage1", "bare2"), ("stage2", "bare3"))
        }
        models["recipe"] = make_recipe(data, images, name=f"bare-{bare}", **{**CHANGES, **stages})
        configs = {}
        for kind, model in models.items():
            configs[kind] = str(tmp_path / f"{model.name}.yaml")
            Path(configs[kind]).write_text(yaml.safe_dump(model.model_dump(mode="json", exclude={"assumptions"})))
        folder = tmp_path / f"ranks-{bare}"
        folder.mkdir()
        environment = {"TORCH_EXTENSIONS_DIR": str(folder / "none"), "MLLM_EVAL_PATH": str(tmp_path)}
        codes = run_ranks(1, folder, train_as_rank, configs, None, None, None, environment=environment)
        assert codes == [0], (folder / "rank0.log").read_text()[-3000:]
        losses.append(results_of(finished(configs, folder, monkeypatch))[0])
    plain, sharded = losses
    for stage in (0, 1):
        assert sharded[stage] == pytest.approx(plain[stage], rel=1e-4)


@pytest.mark.slow
def test_sharded_and_killed_twice_it_goes_on_with_another_number_of_processes(
    one_process: tuple[list[list[float]], dict[str, torch.Tensor]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = write_configs(tmp_path, True, {})
    logits = tmp_path / "logits.pt"
    run_processes(configs, tmp_path, 2, ("stage1", 5), counted=tmp_path)
    run_processes(configs, tmp_path, 1, ("stage2", 5))
    run_processes(configs, tmp_path, 2, logits=logits, counted=tmp_path)
    run = finished(configs, tmp_path, monkeypatch)
    assert_same(run, one_process)
    # The checkpoint says what the sharded model said.
    ids, pixels, expected = torch.load(logits, weights_only=True)
    with torch.no_grad():
        found = load_checkpoint(run.checkpoint)(input_ids=ids, pixel_values=pixels).logits
    torch.testing.assert_close(found, expected)
    assert not (run.stage_dir(2) / "checkpoints").exists()
    # What a plan foretells of a process's memory: nothing is gathered while the optimiser steps.
    for stage, kinds in ((1, ("weights", "optimiser")), (2, ("weights", "gradients", "optimiser", "passing"))):
        measured = json.loads((tmp_path / f"stage{stage}.json").read_text())
        foretold = states(Parameters(measured["trained"], measured["frozen"]), "float32", 2 if stage == 1 else 3, 2)
        print(f"stage {stage}: {measured}, {foretold}")
        # Under ZeRO-2 gradients become steps group by group.
        for kind in kinds:
            told = foretold.stepping if kind == "passing" else getattr(foretold, kind)
            assert told == pytest.approx(measured[kind], rel=0.15), (stage, kind)
        whole = sum(measured[kind] for kind in ("weights", "gradients", "optimiser", "passing"))
        assert foretold.peak(0) == pytest.approx(whole, rel=0.15), stage


@pytest.mark.slow
def test_adapters_are_trained_under_deepspeeds_launcher_then_merged_and_load_in_peft(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from peft import PeftModel
    from transformers import LlamaForCausalLM

    configs = write_configs(tmp_path, True, {"lora": {"r": 4, "alpha": 8, "targets": ["q_proj", "down_proj"]}})
    words = [configs["encoder"], "--recipe", configs["recipe"], "--llm", configs["llm"]]
    command = [sys.executable, "-m", "mllm_eval", "train", *words, "--launch", "deepspeed", "--processes", "2"]
    places = {"MLLM_EVAL_RESULTS": tmp_path / "results", "TORCH_EXTENSIONS_DIR": tmp_path / "extensions"}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **{name: str(place) for name, place in places.items()}}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    run = finished(configs, tmp_path, monkeypatch)
    base = LlamaForCausalLM.from_pretrained(tmp_path / "llm")
    plain = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    merged = load_checkpoint(run.checkpoint).llm
    changed = {name for name, tensor in merged.state_dict().items() if not torch.equal(tensor, plain[name])}
    assert changed == {name for name in plain if "q_proj" in name or "down_proj" in name}
    adapted = PeftModel.from_pretrained(base, str(run.stage_dir(2) / "adapter")).eval()
    ids = torch.tensor([[5, 20, 30, 40]])
    with torch.no_grad():
        torch.testing.assert_close(adapted(input_ids=ids).logits, merged(input_ids=ids).logits)
    losses, _ = results_of(run)
    assert losses[1][-1] < losses[1][0]

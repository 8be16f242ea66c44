"""Several processes, plain and under ZeRO-2 and ZeRO-3, give the losses and the weights of one.

The encoder of the sharded runs is part of the model (`features: live`), frozen and sharded with the rest.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tiny_models import make_conversations, make_encoder, make_llm, make_recipe

from mllm_eval.model import load_checkpoint
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

# The worker, made to die after a step, and to say what its sharded model answers before its weights are gathered.
WORKER = """
    import os, sys
    import torch
    from mllm_eval.train import stages, trainer, worker

    die = tuple(os.environ.get("DIE", "0 0").split())
    add = stages.StageLog.add
    def add_or_die(self, step, *rest):
        add(self, step, *rest)
        if (self.path.parent.name, str(step)) == die:
            os._exit(9)
    stages.StageLog.add = add_or_die

    whole_state = trainer.StageTrainer.whole_state
    def answered(self):
        if self.stage.train_llm:
            model = self.model_wrapped
            model.eval()
            image = self.model.config.image_token_id
            ids = torch.tensor([[5, *[image] * 9, 20, 30, 40]])
            pixels = torch.linspace(-1, 1, 3 * 28 * 28).view(1, 3, 28, 28)
            with torch.no_grad():
                logits = model(input_ids=ids, pixel_values=pixels).logits
            if self.is_world_process_zero():
                torch.save((ids, pixels, logits), os.environ["LOGITS"])
        return whole_state(self)
    if "LOGITS" in os.environ:
        trainer.StageTrainer.whole_state = answered
    sys.exit(worker.main(sys.argv[1:]))
"""


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


def run_processes(configs: dict[str, str], folder: Path, size: int, **environment: str) -> list[int]:
    """The worker on so many processes, as a launcher would start them: when one ends badly, so do all."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {
        **os.environ,
        "MLLM_EVAL_RESULTS": str(folder / "results"),
        "OMP_NUM_THREADS": "1",
        # Empty: nothing may be compiled.
        "TORCH_EXTENSIONS_DIR": str(folder / "extensions"),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
        **environment,
    }
    words = [word for kind, path in configs.items() for word in (f"--{kind}", path)]
    # To files: a rank whose pipe nobody reads blocks as soon as it is full, and all others wait for it.
    outputs = [folder / f"rank{rank}.log" for rank in range(size)]
    processes = []
    for rank, output in enumerate(outputs):
        with output.open("w") as file:
            process = subprocess.Popen(
                [sys.executable, "-c", textwrap.dedent(WORKER), *words],
                env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        processes.append(process)
    try:
        while any(process.poll() is None for process in processes) and not any(process.poll() for process in processes):
            with contextlib.suppress(subprocess.TimeoutExpired):
                processes[0].wait(timeout=0.1)
                processes[-1].wait(timeout=0.1)
    finally:
        for process in processes:
            process.kill()
    codes = [process.wait() for process in processes]
    expected = 9 if "DIE" in environment else 0
    assert codes[0] == expected, outputs[0].read_text()[-3000:]
    return codes


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
def test_sharded_and_killed_twice_it_goes_on_with_another_number_of_processes(
    one_process: tuple[list[list[float]], dict[str, torch.Tensor]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = write_configs(tmp_path, True, {})
    logits = tmp_path / "logits.pt"
    run_processes(configs, tmp_path, 2, DIE="stage1 5")
    run_processes(configs, tmp_path, 1, DIE="stage2 5")
    run_processes(configs, tmp_path, 2, LOGITS=str(logits))
    run = finished(configs, tmp_path, monkeypatch)
    assert_same(run, one_process)
    # The checkpoint says what the sharded model said.
    ids, pixels, expected = torch.load(logits, weights_only=True)
    with torch.no_grad():
        found = load_checkpoint(run.checkpoint)(input_ids=ids, pixel_values=pixels).logits
    torch.testing.assert_close(found, expected)
    assert not (run.stage_dir(2) / "checkpoints").exists()


@pytest.mark.slow
def test_adapters_are_trained_sharded_then_merged_and_load_in_peft(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from peft import PeftModel
    from transformers import LlamaForCausalLM

    configs = write_configs(tmp_path, True, {"lora": {"r": 4, "alpha": 8, "targets": ["q_proj", "down_proj"]}})
    run_processes(configs, tmp_path, 2)
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

"""Two processes, plain and under ZeRO-2 and ZeRO-3, give the loss curve and the weights of one."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tiny_models import make_conversations, make_encoder, make_llm, make_recipe

from mllm_eval.run import Run
from mllm_eval.train import train

KEPT = {"batch": 8, "steps": 6}


def write_configs(folder: Path, deepspeed: tuple[str | None, str | None]) -> list[str]:
    """The yaml files of a run of two processes, as the worker's arguments."""
    data, images = make_conversations(folder / "data")
    stages = [{**KEPT, "micro_batch": 2, "deepspeed": name} for name in deepspeed]
    models = {
        "encoder": make_encoder(folder / "encoder"),
        "llm": make_llm(folder / "llm"),
        "recipe": make_recipe(data, images, stage1=stages[0], stage2=stages[1]),
    }
    words = []
    for kind, model in models.items():
        path = folder / f"{model.name}.yaml"
        path.write_text(yaml.safe_dump(model.model_dump(mode="json", exclude={"assumptions"})))
        words += [f"--{kind}", str(path)]
    return words


def run_processes(words: list[str], results: Path, size: int = 2) -> None:
    """The worker on so many processes, as a launcher would start them."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {
        **os.environ,
        "MLLM_EVAL_RESULTS": str(results),
        "OMP_NUM_THREADS": "1",
        # Empty: nothing may be compiled.
        "TORCH_EXTENSIONS_DIR": str(results / "extensions"),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
    }
    # To files: a rank whose pipe nobody reads blocks as soon as it is full, and all others wait for it.
    outputs = [results.with_name(f"rank{rank}.log") for rank in range(size)]
    processes = []
    for rank, output in enumerate(outputs):
        with output.open("w") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "mllm_eval.train.worker", *words],
                env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        processes.append(process)
    try:
        for process in processes:
            process.wait(timeout=600)
    finally:
        for process in processes:
            process.kill()
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == 0, output.read_text()[-3000:]


def results_of(run: Run) -> tuple[list[list[float]], dict[str, torch.Tensor]]:
    logs = [(run.stage_dir(stage) / "log.jsonl").read_text().splitlines() for stage in (1, 2)]
    losses = [[json.loads(line)["loss"] for line in lines] for lines in logs]
    return losses, load_file(run.checkpoint / "model.safetensors")


@pytest.fixture(scope="module")
def one_process(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[list[float]], dict[str, torch.Tensor]]:
    folder = tmp_path_factory.mktemp("one")
    data, images = make_conversations(folder / "data")
    stage = {**KEPT, "micro_batch": 8}
    recipe = make_recipe(data, images, stage1=stage, stage2=stage)
    run = Run(make_encoder(folder / "encoder"), recipe, make_llm(folder / "llm"), 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLLM_EVAL_RESULTS", str(folder / "results"))
        train(run)
        return results_of(run)


@pytest.mark.slow
@pytest.mark.parametrize("deepspeed", [(None, None), ("zero2", "zero3")], ids=["plain", "zero2+zero3"])
def test_two_processes_give_what_one_gives(
    deepspeed: tuple[str | None, str | None],
    one_process: tuple[list[list[float]], dict[str, torch.Tensor]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = write_configs(tmp_path, deepspeed)
    run_processes(words, tmp_path / "results")
    monkeypatch.setenv("MLLM_EVAL_RESULTS", str(tmp_path / "results"))
    named: dict[str, Any] = {key.removeprefix("--"): value for key, value in zip(words[::2], words[1::2], strict=True)}
    run = Run.of(**named, seed=3)
    assert not list((tmp_path / "results" / "extensions").rglob("*.so"))
    losses, tensors = results_of(run)
    expected, whole = one_process
    for stage in (0, 1):
        assert losses[stage] == pytest.approx(expected[stage], rel=1e-4)
    assert set(tensors) == set(whole)
    for name, tensor in whole.items():
        if name.startswith("encoder."):
            assert torch.equal(tensors[name], tensor), name
        else:
            torch.testing.assert_close(tensors[name], tensor, rtol=2e-2, atol=2e-3)

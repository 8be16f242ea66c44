"""What a training held is given back: stage 1's model before stage 2, and all of it before anything is asked."""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from forked import run_ranks
from tiny_models import make_conversations, make_encoder, make_llm, make_recipe

from mllm_eval.adapters import family
from mllm_eval.adapters.base import EncoderModel
from mllm_eval.environment import device, gpus
from mllm_eval.generate import backoff
from mllm_eval.model import load_checkpoint
from mllm_eval.run import Run
from mllm_eval.train import stages, train


def living() -> int:
    """Bytes of all tensors, each storage once."""
    gc.collect()
    storages = [one.untyped_storage() for one in gc.get_objects() if type(one) in (torch.Tensor, torch.nn.Parameter)]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def make_run(folder: Path, **changes: Any) -> Run:
    data, images = make_conversations(folder / "data")
    stage = {"batch": 8, "micro_batch": 4, "steps": 2, **changes}
    recipe = make_recipe(data, images, standardize=False, stage1=stage, stage2=stage)
    return Run(make_encoder(folder / "encoder"), recipe, make_llm(folder / "llm", 256), 0)


def train_and_count(folder: Path, changes: dict[str, Any]) -> int:
    """A process of its own: what stands around a stage, and whether the model was far more than that."""
    os.environ["MLLM_EVAL_RESULTS"] = str(folder / "results")
    torch.set_num_threads(1)
    around: list[int] = []
    plain = stages.train_stage

    def counted(*given: Any) -> None:
        around.append(living())
        plain(*given)
        around.append(living())

    stages.train_stage = counted
    train(make_run(folder, **changes))
    around.append(living())
    weights = sum(path.stat().st_size for path in folder.glob("llm/*.safetensors"))
    print(around, weights)
    return 0 if len(around) == 5 and max(around) < weights / 10 else 1


@pytest.mark.parametrize(
    "changes",
    [{}, {"deepspeed": "zero2"}, {"deepspeed": "zero3", "features": "live", "gradient_checkpointing": True}],
    ids=["plain", "zero2", "zero3"],
)
def test_nothing_of_a_stage_stays_in_memory(changes: dict[str, Any], tmp_path: Path) -> None:
    environment = {"TORCH_EXTENSIONS_DIR": str(tmp_path / "extensions")}
    codes = run_ranks(1, tmp_path, train_and_count, tmp_path, changes, environment=environment)
    assert codes == [0], (tmp_path / "rank0.log").read_text()[-2000:]


@pytest.mark.slow
def test_the_encoder_that_filled_the_store_is_gone_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLLM_EVAL_RESULTS", str(tmp_path / "results"))
    seen: list[int] = []
    plain = stages.train_stage

    def counted(*given: Any) -> None:
        loaded = [one for one in gc.get_objects() if isinstance(one, EncoderModel)]
        seen.append(len(loaded))
        plain(*given)

    monkeypatch.setattr(stages, "train_stage", counted)
    gc.collect()
    before = len([one for one in gc.get_objects() if isinstance(one, EncoderModel)])
    run = make_run(tmp_path)
    train(run)
    assert [count - before for count in seen] == [0, 0]
    # Who answers takes features: the checkpoint's own encoder is not read.
    asked = load_checkpoint(run.checkpoint, encoder=False)
    assert asked.encoder is None and load_checkpoint(run.checkpoint).encoder is not None
    features = torch.randn(1, 4, 4, 32)
    torch.testing.assert_close(asked.embed(features), load_checkpoint(run.checkpoint).embed(features))


@pytest.mark.parametrize("kind", ["dinov2", "siglip", "clip"])
def test_blocks_behind_the_last_asked_for_are_neither_run_nor_lost(kind: str, tmp_path: Path) -> None:
    facts = make_encoder(tmp_path, kind)
    model = family(kind).load(facts, tmp_path, torch.float32)
    pixels = torch.randn(1, 3, 28, 28)
    left: list[str] = []
    # What hooks into modules, as sharding does, must see each that is entered left again.
    handles = [
        (
            module.register_forward_pre_hook(lambda *_, name=name: left.append(name)),
            module.register_forward_hook(lambda *_, name=name: left.remove(name)),
        )
        for name, module in model.model.named_modules()
    ]
    (first,) = model(pixels, [1])
    assert left == []
    for pair in handles:
        for handle in pair:
            handle.remove()
    run: list[int] = []
    model.blocks()[1].register_forward_hook(lambda *_: run.append(1))
    one, two = model(pixels, [1, 2])
    assert run == [1] and torch.equal(one.patches, first.patches) and not torch.equal(one.patches, two.patches)
    model(pixels, [1])
    assert run == [1] and len(model.blocks()) == 2


def test_each_process_has_a_gpu_of_its_own_in_every_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert device() == "cuda:0"
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert device() == "cuda:3"
    # Where Slurm shows each process its own GPU alone, that is the first one there.
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert device() == "cuda:0"


def test_memory_that_torch_keeps_for_itself_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (5, 80))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 60)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 16)
    assert backoff.free_bytes("cuda:0") == 5 + 44


SMI = """#!/bin/sh
echo "GPU-aaaa-1, NVIDIA H100"
echo "GPU-aabb-2, NVIDIA H100"
echo "GPU-cccc-3, NVIDIA A100"
"""


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (None, ["NVIDIA H100", "NVIDIA H100", "NVIDIA A100"]),
        ("2,0", ["NVIDIA A100", "NVIDIA H100"]),
        ("", []),
        ("-1", []),
        ("1,7,0", ["NVIDIA H100"]),
        ("GPU-cccc,GPU-aabb", ["NVIDIA A100", "NVIDIA H100"]),
        ("GPU-aa", []),
        ("0,0", ["NVIDIA H100"]),
    ],
)
def test_gpus_are_those_that_are_visible(
    said: str | None, expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nvidia-smi").write_text(SMI)
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if said is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", said)
    assert gpus() == expected


def test_a_container_without_nvidia_smi_has_the_gpus_that_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for minor in range(3):
        path = tmp_path / "driver" / f"0000:0{minor}:00.0" / "information"
        path.parent.mkdir(parents=True)
        path.write_text(f"Model: \t\t NVIDIA H200\nGPU UUID: \t GPU-{minor}\nDevice Minor: \t {minor}\n")
    (tmp_path / "nvidia1").touch()
    monkeypatch.setattr("mllm_eval.environment.DRIVER", tmp_path / "driver")
    monkeypatch.setattr("mllm_eval.environment.DEVICES", tmp_path)
    monkeypatch.setattr("shutil.which", lambda _: None)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert gpus() == ["NVIDIA H200"]

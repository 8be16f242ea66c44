"""What is looked at before a stage's first step, and that looking changes nothing."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forked import run_ranks
from tiny_models import make_conversations, make_encoder, make_llm, make_recipe

from mllm_eval.environment import cores
from mllm_eval.errors import UserError
from mllm_eval.run import Run
from mllm_eval.storage import sha256_tree
from mllm_eval.train import preflight, train
from mllm_eval.train.order import BatchPlan
from mllm_eval.train.preflight import attention, check_rotary, longest_rows


def make_run(folder: Path, **changes: Any) -> Run:
    data, images = make_conversations(folder / "data")
    stage = {"batch": 8, "micro_batch": 4, "steps": 2}
    lora = {"r": 4, "alpha": 8, "dropout": 0.5, "targets": ["q_proj", "down_proj"]}
    recipe = make_recipe(data, images, stage1={**stage, **changes}, stage2={**stage, "lora": lora, **changes})
    return Run(make_encoder(folder / "encoder"), recipe, make_llm(folder / "llm"), 0)


def train_with_and_without(folder: Path, changes: dict[str, Any]) -> int:
    """A process of its own: whether the checkpoint is the same with the pass over the longest rows and without."""
    made = []
    tried: list[int] = []
    plain = preflight.try_pass
    for probe in (True, False):
        os.environ["MLLM_EVAL_RESULTS"] = str(folder / f"results-{probe}")

        def pass_(*given: Any, probe: bool = probe) -> None:
            if probe:
                tried.append(given[2]["input_ids"].shape[1])
                plain(*given)

        preflight.try_pass = pass_
        run = make_run(folder, **changes)
        train(run)
        made.append(sha256_tree(run.checkpoint))
    print(made, tried)
    return 0 if made[0] == made[1] and len(tried) == 2 else 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes", [{}, {"deepspeed": "zero2"}, {"deepspeed": "zero3"}], ids=["plain", "zero2", "zero3"]
)
def test_a_pass_over_the_longest_rows_changes_no_byte(changes: dict[str, Any], tmp_path: Path) -> None:
    environment = {"TORCH_EXTENSIONS_DIR": str(tmp_path / "extensions")}
    codes = run_ranks(1, tmp_path, train_with_and_without, tmp_path, changes, environment=environment)
    assert codes == [0], (tmp_path / "rank0.log").read_text()[-2000:]


@pytest.mark.slow
def test_rows_that_do_not_fit_are_told_before_the_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 18.00 GiB.\nmore")

    monkeypatch.setenv("MLLM_EVAL_RESULTS", str(tmp_path / "results"))
    monkeypatch.setattr(preflight, "try_pass", full)
    run = make_run(tmp_path)
    with pytest.raises(UserError, match=r"^4 of the longest rows, of \d+ tokens, do not fit .* lower `micro_batch`"):
        train(run)
    assert not (run.stage_dir(1) / "log.jsonl").read_bytes()


def test_the_longest_rows_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = BatchPlan(np.array([3, 9, 4, 8, 1, 7, 2, 6]), 4, 2, (0, 1), "random")
    found = []
    for rank in (0, 1):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        found.append(longest_rows(plan, 2).tolist())
    assert found == [[1, 3], [5, 7]]


def test_rotary_frequencies_stay_in_float32(tmp_path: Path) -> None:
    from mllm_eval.model import load_llm_model

    model = load_llm_model(make_llm(tmp_path), torch.bfloat16)
    check_rotary(model)
    # As a cast of the whole module does.
    model.to(torch.bfloat16)
    with pytest.raises(UserError, match=r"inv_freq is bfloat16.*deepspeed>=0\.19\.4"):
        check_rotary(model)


def test_deterministic_training_leaves_out_kernels_that_are_not() -> None:
    mode = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        for warn, efficient in ((True, True), (False, False)):
            torch.use_deterministic_algorithms(True, warn_only=warn)
            with attention(True):
                assert torch.backends.cuda.mem_efficient_sdp_enabled() == efficient
                assert torch.backends.cuda.flash_sdp_enabled() and torch.backends.cuda.math_sdp_enabled()
    finally:
        torch.use_deterministic_algorithms(mode[0], warn_only=mode[1])


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({}, 12),
        ({"LOCAL_WORLD_SIZE": "4", "WORLD_SIZE": "8"}, 3),
        # A Slurm task sees the cores that it was given, or all of the machine's.
        ({"LOCAL_WORLD_SIZE": "4", "WORLD_SIZE": "8", "SLURM_NTASKS": "8", "SLURM_CPUS_PER_TASK": "12"}, 12),
        ({"LOCAL_WORLD_SIZE": "4", "WORLD_SIZE": "8", "SLURM_NTASKS": "8", "SLURM_CPUS_PER_TASK": "2"}, 2),
        # torchrun within one task.
        ({"LOCAL_WORLD_SIZE": "4", "WORLD_SIZE": "4", "SLURM_NTASKS": "1", "SLURM_CPUS_PER_TASK": "12"}, 3),
    ],
)
def test_cores_are_shared_out_once(said: dict[str, str], expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE", "SLURM_NTASKS", "SLURM_CPUS_PER_TASK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(12)))
    assert cores() == expected

"""What a checkpoint holds: what is trained, nothing that is frozen, nothing twice, and enough to go on from."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from forked import run_ranks
from tiny_models import make_conversations, make_encoder, make_llm, make_recipe

from mllm_eval.errors import UserError
from mllm_eval.run import Run
from mllm_eval.storage import sha256_tree
from mllm_eval.train import diskspace, stages, train
from mllm_eval.train.diskspace import checkpoint_bytes, trained_parameters
from mllm_eval.train.stageprogress import StageLog, latest_whole

LORA = {"r": 4, "alpha": 8, "targets": ["q_proj", "down_proj"]}
KINDS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "plain": ("float32", {}, {"lora": LORA}),
    "sharded": ("bfloat16", {"deepspeed": "zero2"}, {"deepspeed": "zero3", "features": "live"}),
}


def make_run(folder: Path, kind: str) -> Run:
    dtype, first, second = KINDS[kind]
    data, images = make_conversations(folder / "data")
    stage = {"batch": 8, "micro_batch": 4, "steps": 6}
    recipe = make_recipe(
        data, images, standardize=False, dtype=dtype, stage1={**stage, **first}, stage2={**stage, **second}
    )
    return Run(make_encoder(folder / "encoder"), recipe, make_llm(folder / "llm", 256), 0)


def train_and_die(folder: Path, kind: str, results: str, die: tuple[int, int] | None) -> int:
    """A process of its own, which dies after a step of a stage; what the last checkpoint then took is written down."""
    os.environ["MLLM_EVAL_RESULTS"] = str(folder / results)
    torch.set_num_threads(1)
    run = make_run(folder, kind)
    add = StageLog.add

    def add_or_die(self: Any, step: int, *rest: Any) -> None:
        add(self, step, *rest)
        number = int(self.path.parent.name[-1])
        if (number, step) == die:
            kept = latest_whole(self.path.parent / "checkpoints")
            assert kept is not None
            size = sum(path.stat().st_size for path in kept.rglob("*") if path.is_file())
            stage = run.recipe.stage1 if number == 1 else run.recipe.stage2
            facts = [size, checkpoint_bytes(run, stage), trained_parameters(run, stage)]
            (folder / f"size{number}.json").write_text(json.dumps(facts))
            os._exit(9)

    stages.StageLog.add = add_or_die  # type: ignore[method-assign]
    train(run)
    return 0


def gone_far_enough(*_: Any) -> Any:
    raise InterruptedError


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_holds_what_is_trained_and_is_enough_to_go_on(kind: str, tmp_path: Path) -> None:
    environment = {"TORCH_EXTENSIONS_DIR": str(tmp_path / "extensions")}

    def go(results: str, die: tuple[int, int] | None) -> None:
        codes = run_ranks(1, tmp_path, train_and_die, tmp_path, kind, results, die, environment=environment)
        assert codes == [9 if die else 0], (tmp_path / "rank0.log").read_text()[-3000:]

    go("whole", None)
    for die in ((1, 5), (2, 5), None):
        go("killed", die)
    made = [next((tmp_path / name / "runs").glob("*/checkpoint")) for name in ("whole", "killed")]
    assert sha256_tree(made[0]) == sha256_tree(made[1])
    llm = (tmp_path / "llm" / "model.safetensors").stat().st_size / 4
    for number in (1, 2):
        size, foretold, trained = json.loads((tmp_path / f"size{number}.json").read_text())
        # Config, random states, scheduler and the names of parameters: nothing that grows with the model.
        assert size < foretold + 250_000, number
        # The optimiser's two moments and float32 weights, and two bytes a parameter.
        assert foretold <= 14 * trained
        assert trained < 0.6 * llm or (number == 2 and kind == "sharded")


def test_training_is_refused_where_its_checkpoints_have_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLLM_EVAL_RESULTS", str(tmp_path / "results"))
    run = make_run(tmp_path, "plain")
    used = diskspace.shutil.disk_usage(tmp_path)
    each = checkpoint_bytes(run, run.recipe.stage2)
    model = 4 * (run.llm.params + run.encoder.params)
    for free, enough in ((3 * each + model, True), (3 * each + model - 1, False)):
        monkeypatch.setattr(diskspace.shutil, "disk_usage", lambda _, free=free: used._replace(free=free))
        if enough:
            plain = stages.with_room
            monkeypatch.setattr(stages, "with_room", gone_far_enough)
            with pytest.raises(InterruptedError):
                train(run)
            monkeypatch.setattr(stages, "with_room", plain)
        else:
            with pytest.raises(UserError, match=r"stage 2 writes checkpoints of .* MB, 3 at a time, .* are free"):
                train(run)
            assert not list(run.stage_dir(1).glob("log.jsonl"))

"""Two stages of training: what is learnt, what is not touched, and that a kill changes nothing."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forked import run_alone
from tiny_training import log_of, make_run

from mllm_eval.adapters import load_encoder_model
from mllm_eval.errors import UserError
from mllm_eval.features import Features
from mllm_eval.model import load_checkpoint, load_llm_model, load_tokenizer
from mllm_eval.operations import encoder_shape, encoding
from mllm_eval.pipeline.flow import working
from mllm_eval.prompts import conversation, render
from mllm_eval.run import Run
from mllm_eval.storage import sha256_tree
from mllm_eval.train import is_trained, train
from mllm_eval.train.batches import Collator, RowShape
from mllm_eval.train.order import BatchPlan, planned
from mllm_eval.train.rowtokens import TokenisedSet, tokenise
from mllm_eval.train.stageprogress import StageLog, latest_whole, mark_whole


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLLM_EVAL_RESULTS", str(tmp_path / "results"))
    return tmp_path


# ---- rows ----
def tokenised(run: Run) -> TokenisedSet:
    from mllm_eval.train.stagerows import conversations_of

    tokenizer = load_tokenizer(run.llm, run.recipe.template)
    sets = [conversations_of(data) for data in run.recipe.stage1.data]
    return tokenise(sets, tokenizer, "digest", run.recipe.template)


def test_tokens_are_those_of_the_rendered_prompt_and_targets_those_of_the_answers(home: Path) -> None:
    run = make_run(home)
    data = tokenised(run)
    tokenizer = load_tokenizer(run.llm, run.recipe.template)
    first = data.ids[: data.offsets[1]].tolist()
    prompt = tokenizer(render(run.recipe.template, "What is number 0?", 1), add_special_tokens=False)["input_ids"]
    assert first[: len(prompt)] == prompt and data.first_target[0] == len(prompt)
    turns = [("<image>\nWhat is number 0?", "red"), ("Sure?", "Yes")]
    whole = "".join(text for text, _ in conversation(run.recipe.template, turns))
    assert tokenizer.decode(first) == whole
    learnt = tokenizer.decode(data.ids[: data.offsets[1]][data.targets[: data.offsets[1]]].tolist())
    assert learnt == "red<|eot_id|>Yes<|eot_id|>"


def test_tokens_are_cached_until_an_image_or_the_file_changes(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mllm_eval.train import rowtokens

    run = make_run(home)
    written: list[Path] = []
    write = rowtokens.write_tokens
    monkeypatch.setattr(rowtokens, "write_tokens", lambda folder, *rest: (written.append(folder), write(folder, *rest)))
    data = tokenised(run)
    tokenised(run)
    assert len(written) == 1
    image = Path(data.images[0][0])
    image.write_bytes(Path(data.images[1][0]).read_bytes())
    changed = tokenised(run)
    assert len(written) == 2 and changed.images[0][1] == data.images[1][1]
    path = Path(run.recipe.stage1.data[0].path)
    path.write_text(path.read_text().replace("red", "rot"))
    tokenised(run)
    assert len(set(written)) == 2


def test_a_missing_image_names_the_row(home: Path) -> None:
    run = make_run(home)
    (home / "data" / "images" / "3.png").unlink()
    with pytest.raises(UserError, match=r"train\.jsonl:4: its image .*3\.png does not exist"):
        tokenised(run)


def test_a_batch_holds_rows_images_and_targets_in_order(home: Path) -> None:
    run = make_run(home)
    data = tokenised(run)
    features = Features.of(run)
    features.fill(data.refs(np.arange(len(data.images))))
    tokenizer = load_tokenizer(run.llm, run.recipe.template)
    image = tokenizer.convert_tokens_to_ids("<image>")
    batch = Collator(data, features.store, RowShape(image, 9, tokenizer.pad_token_id, 600))([5, 0, 10])
    assert batch["features"].shape == (2, 4, 4, 32)
    names = [data.images[data.image_of[data.image_offsets[row]]][1] for row in (0, 10)]
    assert torch.equal(batch["features"], features.store.get_many(names))
    assert (batch["input_ids"] == image).sum(1).tolist() == [0, 9, 9]
    for at, row in enumerate((5, 0, 10)):
        length = int(data.lengths(9)[row])
        assert (batch["input_ids"][at, length:] == tokenizer.pad_token_id).all()
        assert (batch["labels"][at, length:] == -100).all()
        kept = batch["labels"][at] != -100
        assert torch.equal(batch["labels"][at][kept], batch["input_ids"][at][kept])
        assert kept.sum() == data.targets[data.offsets[row] : data.offsets[row + 1]].sum()
    assert batch["input_ids"].shape[1] == max(data.lengths(9)[[5, 0, 10]])


def test_rows_whose_answers_are_cut_away_are_not_used(home: Path) -> None:
    data = tokenised(make_run(home))
    first = data.first_target + np.diff(data.image_offsets) * 8
    limit = int(np.median(first))
    assert data.usable(9, limit).tolist() == [row for row in range(24) if first[row] < limit]
    assert len(data.usable(9, 10_000)) == 24


@pytest.mark.slow
def test_progress_weighs_images_and_steps_by_their_work(home: Path) -> None:
    told: list[tuple[int, int]] = []
    train(make_run(home), lambda done, total: told.append((done, total)))
    (total,) = {total for _, total in told}
    done = [done for done, _ in told]
    assert done == sorted(done) and done[-1] == total
    run = make_run(home)
    # As a plan counts them: thirty-two images, then the steps.
    assert done[0] <= encoding(encoder_shape(run.encoder), 32) / 1e6 + 1 < total


# ---- batches ----
def test_only_images_that_a_step_reads_are_encoded(home: Path) -> None:
    plan = BatchPlan(np.full(100, 7), 8, 3, (0, 1))
    seen = {row for step in range(3) for row in plan.rows(step).tolist()}
    assert plan.read().tolist() == sorted(seen) and len(seen) == 24
    assert len(BatchPlan(np.full(100, 7), 8, 13, (0, 1)).read()) == 100
    data = tokenised(make_run(home))
    rows = np.array([0, 5, 10])
    expected = {
        n for row in rows for n in data.image_of[data.image_offsets[row] : data.image_offsets[row + 1]].tolist()
    }
    assert data.images_of(rows).tolist() == sorted(expected) and 0 < len(expected) < len(data.images)
    assert [ref.sha256 for ref in data.refs(data.images_of(rows))] == [data.images[n][1] for n in sorted(expected)]


def test_a_plan_visits_every_row_once_an_epoch_in_batches_of_like_length() -> None:
    lengths = np.random.default_rng(0).integers(10, 200, 1000)
    plan = BatchPlan(lengths, 16, 124, (0, 1))
    for epoch in range(2):
        rows = np.concatenate([plan.rows(step) for step in range(epoch * 62, epoch * 62 + 62)])
        assert len(rows) == 992 and len(set(rows.tolist())) == 992
    padded = sum(16 * lengths[plan.rows(step)].max() for step in range(62))
    assert padded < 1.05 * sum(plan.tokens(step) for step in range(62))
    again = BatchPlan(lengths, 16, 124, (0, 1))
    assert again.rows(70).tolist() == plan.rows(70).tolist()
    assert BatchPlan(lengths, 16, 124, (0, 2)).rows(70).tolist() != plan.rows(70).tolist()
    assert plan.rows(0).tolist() != plan.rows(62).tolist()


def test_rows_that_do_not_fill_a_batch_are_refused(home: Path) -> None:
    stage = make_run(home).recipe.stage1.model_copy(update={"batch": 16})
    with pytest.raises(UserError, match=r"stage 1: 10 conversations with .* do not fill a batch of 16"):
        planned(0, 1, stage, np.full(10, 7), np.full(10, True))


# ---- log and checkpoints ----
def test_the_log_forgets_steps_that_are_done_again(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    log = StageLog(path, 0)
    for step in range(1, 6):
        log.add(step, 1.0 / step, 0.1, None, 10)
    path.write_bytes(path.read_bytes()[:-9])
    StageLog(path, 3).add(4, 0.5, 0.1, 1.0, 10)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3, 4]
    with pytest.raises(UserError, match="the loss of step 5 is nan"):
        StageLog(path, 4).add(5, float("nan"), 0.1, None, 10)


def test_an_incomplete_checkpoint_is_passed_over_with_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for step in (5, 10, 15):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "weights").write_bytes(b"x" * 100)
        if step != 15:
            mark_whole(folder)
    (tmp_path / "checkpoint-10" / "weights").write_bytes(b"x" * 60)
    with caplog.at_level(logging.WARNING):
        assert latest_whole(tmp_path) == tmp_path / "checkpoint-5"
    assert [record.args[1] for record in caplog.records if record.args] == [15, 10]
    assert latest_whole(tmp_path / "nothing") is None


# ---- both stages ----
@pytest.mark.slow
def test_two_stages_train_what_they_should_and_nothing_else(home: Path) -> None:
    from safetensors.torch import load_file

    run = make_run(home, stage2={"steps": 30})
    before = sha256_tree(home / "encoder")
    seen: list[tuple[int, int]] = []
    assert not is_trained(run)
    train(run, lambda done, total: seen.append((done, total)))
    assert is_trained(run)
    assert sha256_tree(home / "encoder") == before

    model = load_checkpoint(run.checkpoint)
    encoder = load_encoder_model(run.encoder).state_dict()
    assert all(torch.equal(model.state_dict()[f"encoder.{name}"], encoder[name]) for name in encoder)
    projector = load_file(run.stage_dir(1) / "projector.safetensors")
    base = load_llm_model(run.llm).state_dict()
    assert not torch.equal(projector["layers.0.weight"], model.projector.layers[0].weight)
    assert any(not torch.equal(model.llm.state_dict()[name], base[name]) for name in base)

    first, second = log_of(run, 1), log_of(run, 2)
    assert [line["step"] for line in first] == list(range(1, 7))
    assert len(second) == 30 and second[-1]["loss"] < 0.7 * second[0]["loss"]
    assert first[0]["lr"] == 0 and first[1]["lr"] == pytest.approx(1e-2) and first[-1]["lr"] < 2e-3
    assert seen[-1][0] == seen[-1][1] and len(seen) >= 6 + 30
    assert not (run.stage_dir(2) / "checkpoints").exists()

    # Standardised as measured: mean 0 and variance 1 over the alignment images.
    store = Features.of(run).store
    names = [name for _, name in tokenised(run).images]
    patches = store.get_many(names).flatten(0, 2)
    torch.testing.assert_close(projector["mean"], patches.mean(0))
    torch.testing.assert_close(projector["std"], patches.std(0, correction=0))


@pytest.mark.slow
def test_stage_1_leaves_the_llm_alone(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mllm_eval.train import stages

    run = make_run(home)
    states: dict[int, dict[str, torch.Tensor]] = {}
    keep = stages.keep_stage
    monkeypatch.setattr(
        stages,
        "keep_stage",
        lambda run, number, model, state: (states.update({number: state}), keep(run, number, model, state)),
    )
    train(run)
    base = load_llm_model(run.llm).state_dict()
    assert all(torch.equal(states[1][f"llm.{name}"], base[name]) for name in base)


@pytest.mark.slow
def test_checkpoints_that_a_kill_left_behind_the_last_step_are_removed(home: Path) -> None:
    run = make_run(home)
    train(run)
    for number in (1, 2):
        left = run.stage_dir(number) / "checkpoints" / "checkpoint-4"
        left.mkdir(parents=True)
        (left / "model.safetensors").write_bytes(b"large")
    with working(run, None):
        pass
    assert not any((run.stage_dir(number) / "checkpoints").exists() for number in (1, 2))


@pytest.mark.slow
def test_accumulation_and_micro_batches_change_nothing(home: Path) -> None:
    whole = make_run(home / "a")
    parts = make_run(home / "b", stage1={"micro_batch": 1}, stage2={"micro_batch": 2})
    train(whole)
    train(parts)
    for stage in (1, 2):
        losses = [[line["loss"] for line in log_of(run, stage)] for run in (whole, parts)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.slow
def test_the_seed_decides_everything(home: Path) -> None:
    run = make_run(home)
    train(run)
    one = (run.checkpoint / "model.safetensors").read_bytes()
    other = Run(run.encoder, run.recipe, run.llm, 4)
    train(other)
    assert (other.checkpoint / "model.safetensors").read_bytes() != one
    import shutil

    shutil.rmtree(run.folder)
    train(run)
    assert (run.checkpoint / "model.safetensors").read_bytes() == one


def test_the_projector_may_learn_at_its_own_rate(home: Path) -> None:
    from mllm_eval.model import assemble
    from mllm_eval.train.trainer import StageTrainer

    run = make_run(home, stage2={"projector_lr": 0.5, "weight_decay": 0.1})
    tokenizer = load_tokenizer(run.llm, run.recipe.template)
    model = assemble(run.encoder, run.recipe, load_llm_model(run.llm), tokenizer)
    trainer = StageTrainer.__new__(StageTrainer)
    trainer.model, trainer.stage, trainer.optimizer = model, run.recipe.stage2, None
    trainer.args = type("Args", (), {"adam_beta1": 0.9, "adam_beta2": 0.999, "adam_epsilon": 1e-8, "deepspeed": None})()  # type: ignore[assignment]
    groups = trainer.create_optimizer().param_groups
    assert [(group["lr"], group["weight_decay"]) for group in groups] == [
        (3e-3, 0.1), (3e-3, 0.0), (0.5, 0.1), (0.5, 0.0)
    ]  # fmt: skip
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


def train_and_die(home: Path, at: tuple[str | int, int]) -> None:
    """A process that ends at once behind the encoding of so many images, or behind a step of a stage."""
    from mllm_eval.train.stageprogress import RunProgress

    encoded, steps = RunProgress.encoded, RunProgress.steps

    def die_encoding(self: RunProgress, done: int) -> None:
        encoded(self, done)
        if at == ("images", done):
            os._exit(9)

    def die_stepping(self: RunProgress, number: int) -> Callable[[int], None]:
        told = steps(self, number)

        def tell(step: int) -> None:
            told(step)
            if at == (number, step):
                os._exit(9)

        return tell

    RunProgress.encoded, RunProgress.steps = die_encoding, die_stepping  # type: ignore[method-assign]
    train(make_run(home, stage1={"steps": 20}, stage2={"steps": 20}))


@pytest.mark.slow
def test_killed_at_any_step_and_started_again_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    steps = {"stage1": {"steps": 20}, "stage2": {"steps": 20}}
    monkeypatch.setenv("MLLM_EVAL_RESULTS", str(tmp_path / "whole"))
    run = make_run(tmp_path, **steps)
    train(run)
    expected = {path.name: path.read_bytes() for path in run.checkpoint.iterdir()}
    logs = [[(line["step"], line["loss"]) for line in log_of(run, stage)] for stage in (1, 2)]

    monkeypatch.setenv("MLLM_EVAL_RESULTS", str(tmp_path / "killed"))
    # Before the features of the 10 images are written, in stage 1, and, with nothing to encode, in stage 2.
    for at in (("images", 10), (1, 7), (2, 9)):
        assert run_alone(tmp_path, train_and_die, tmp_path, at) == 9, (tmp_path / "alone.log").read_text()
    checkpoints = run.stage_dir(2) / "checkpoints"
    newest = latest_whole(checkpoints)
    assert newest is not None and newest.name == "checkpoint-8"
    cut = newest / "optimizer.pt"
    cut.write_bytes(cut.read_bytes()[:-100])
    with caplog.at_level(logging.WARNING):
        train(run)
    assert sum("step 8 is incomplete" in record.getMessage() for record in caplog.records) == 1
    assert {path.name: path.read_bytes() for path in run.checkpoint.iterdir()} == expected
    assert [[(line["step"], line["loss"]) for line in log_of(run, stage)] for stage in (1, 2)] == logs


# ---- bad input ----
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stage1": {"data": [{"path": "none.jsonl", "images": "none"}]}}, "no such file of conversations"),
        ({"stage2": {"deepspeed": "zero4"}}, r"deepspeed config 'zero4' is unknown\. Did you mean 'zero"),
        ({"stage1": {"train_llm": True, "lora": {"r": 8, "alpha": 8}}}, "stage 1: `lora` belongs to stage 2"),
        ({"stage1": {"features": "live"}}, "stage 1: `standardize` is measured on stored features"),
        ({"template": "chatml_direct"}, "no token '<|im_start|>'"),
        ({"template": "lama_3"}, "lama_3"),
        ({"stage1": {"batch": 40, "micro_batch": 40}}, "24 conversations with an answer within max_length"),
        ({"stage1": {"max_length": 20}}, "0 conversations with an answer within max_length"),
    ],
)
def test_bad_input_is_refused_before_anything_is_computed(changes: dict[str, Any], message: str, home: Path) -> None:
    run = make_run(home, **changes)
    with pytest.raises(UserError, match=message.replace("|", r"\|")):
        train(run)
    assert not list((home / "results").rglob("*.safetensors"))
    assert not list((home / "results" / "features").rglob("*.npy"))


@pytest.mark.slow
def test_a_broken_image_stops_training_and_loses_nothing(home: Path) -> None:
    run = make_run(home)
    broken = home / "data" / "images" / "4.png"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:300])
    with pytest.raises(UserError, match=r"4\.png: the image can't be decoded"):
        train(run)
    broken.write_bytes(whole)
    train(run)
    assert is_trained(run)


def test_a_batch_that_the_processes_cannot_divide_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(UserError, match="batch 4 is not a multiple of micro_batch 4 x 3 processes"):
        train(make_run(home))


# ---- what the rows are ----
def test_what_the_rows_are_is_said_before_training_and_kept(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mllm_eval.data.rowcounts import RowCounts, row_counts
    from mllm_eval.train import stages

    run = make_run(home)
    monkeypatch.setattr(stages, "prepare_stage", lambda *_: pytest.fail("too late"))
    said: list[str] = []
    with pytest.raises(pytest.fail.Exception):
        train(run, None, said.append)
    assert said == [f"stage {number}: 24 rows, 20 with image, 4 text only" for number in (1, 2)]
    assert row_counts(run.folder) == {1: RowCounts(20, 4), 2: RowCounts(20, 4)}


def test_a_stage_1_without_any_image_is_refused(home: Path) -> None:
    run = make_run(home)
    path = home / "data" / "train.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        row.pop("image", None)
        for turn in row["conversations"]:
            turn["value"] = turn["value"].replace("<image>", "")
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(
        UserError, match=r"train\.jsonl: no row of stage 1 shows an image \(24 rows, 0 with image, 24 text"
    ):
        train(run)
    assert not is_trained(run)

"""Which rows a step sees: what each order promises, and that neither a split nor a kill changes what is learnt."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from accelerate.data_loader import BatchSamplerShard
from tiny_models import make_tokenizer
from tiny_training import log_of, make_run
from torch.utils.data import BatchSampler

from mllm_eval.catalog import load_recipe
from mllm_eval.data.conversations import ConversationSet
from mllm_eval.train import train
from mllm_eval.train.batches import Collator, RowShape
from mllm_eval.train.batchstats import row_facts
from mllm_eval.train.order import BatchPlan
from mllm_eval.train.stageprogress import RunProgress
from mllm_eval.train.stages import load_tokenizer, prepare_stage

ORDERS = ("random", "modality", "length")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLLM_EVAL_RESULTS", str(tmp_path / "results"))
    return tmp_path


def mixture(rows: int = 1000, text_only: float = 0.23) -> tuple[np.ndarray, np.ndarray]:
    """Lengths of rows and whether they show an image: text alone is spread widely, as in Cambrian-7M."""
    draw = np.random.default_rng(0)
    shown = draw.random(rows) >= text_only
    lengths = np.where(shown, 576 + draw.integers(20, 300, rows), draw.integers(30, 2000, rows))
    return lengths, shown


def llava_steps(shown: list[bool], batch: int) -> list[set[bool]]:
    """What kinds of rows the steps of an epoch hold under LLaVA's sampler, which Cambrian-1 has taken over."""
    kinds: list[list[list[bool]]] = []
    for kind in (True, False):
        rows = [one for one in shown if one == kind]
        kinds.append([rows[at : at + batch] for at in range(0, len(rows), batch)])
    if not all(kinds):
        return [set(step) for step in kinds[0] + kinds[1]]
    last = kinds[0].pop() + kinds[1].pop()
    steps = kinds[0] + kinds[1]
    random.shuffle(steps)
    flat = [row for step in steps for row in step] + last
    return [set(flat[at : at + batch]) for at in range(0, len(flat), batch)]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("last", ["drop", "fill"])
def test_an_epoch_reads_every_row_once(order: Any, last: Any) -> None:
    lengths, shown = mixture()
    plan = BatchPlan(lengths, 16, 126, (0, 1), order, last, shown)
    assert plan.per_epoch == (62 if last == "drop" else 63)
    for epoch in range(2):
        steps = [plan.rows(step) for step in range(epoch * plan.per_epoch, (epoch + 1) * plan.per_epoch)]
        assert all(np.all(np.diff(lengths[rows]) <= 0) for rows in steps)
        rows = np.concatenate(steps)
        assert len(set(rows.tolist())) == (992 if last == "drop" else 1000)
    assert plan.rows(0).tolist() != plan.rows(plan.per_epoch).tolist()
    again = BatchPlan(lengths, 16, 126, (0, 1), order, last, shown)
    assert again.rows(70).tolist() == plan.rows(70).tolist()
    assert BatchPlan(lengths, 16, 126, (0, 2), order, last, shown).rows(70).tolist() != plan.rows(70).tolist()
    with_few = BatchPlan(lengths, 16, 3, (0, 1), order, last, shown)
    assert with_few.read().tolist() == sorted({row for step in range(3) for row in with_few.rows(step).tolist()})


@pytest.mark.parametrize(("images", "texts"), [(100, 40), (96, 32), (33, 1), (1, 16), (48, 0), (0, 50), (17, 31)])
def test_modality_has_the_steps_of_llavas_sampler(images: int, texts: int) -> None:
    shown = np.arange(images + texts) < images
    plan = BatchPlan(np.ones(len(shown), np.int64), 16, 1, (3,), "modality", "drop", shown)
    found = [set(shown[plan.rows(step)].tolist()) for step in range(plan.per_epoch)]
    theirs = llava_steps(shown.tolist(), 16)[: len(shown) // 16]

    def counted(steps: list[set[bool]]) -> dict[frozenset[bool], int]:
        return {kind: steps.count(set(kind)) for kind in map(frozenset, steps)}

    assert counted(found) == counted(theirs)
    # What holds both kinds stands at the end.
    assert all(len(kinds) == 1 for kinds in found[:-2])


def test_random_and_modality_draw_lengths_as_they_are_and_length_does_not() -> None:
    lengths, shown = mixture(8000)

    def spread(order: Any) -> tuple[float, float]:
        """Mean variation of lengths in steps of rows with an image alone, and the share of all steps of text alone."""
        plan = BatchPlan(lengths, 16, 500, (0, 1), order, "drop", shown)
        steps = [plan.rows(step) for step in range(plan.per_epoch)]
        of_images = [lengths[rows].std() / lengths[rows].mean() for rows in steps if shown[rows].all()]
        return float(np.mean(of_images)), float(np.mean([not shown[rows].any() for rows in steps]))

    own = lengths[shown].std() / lengths[shown].mean()
    for order in ("random", "modality"):
        assert spread(order)[0] == pytest.approx(own, rel=0.05)
    assert spread("modality")[1] == pytest.approx(0.23, abs=0.02)
    assert spread("random")[1] < 0.01 and spread("length")[0] < own / 10


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_fill_is_what_accelerate_does(processes: int) -> None:
    # Of equal length, rows keep the order they are drawn in.
    plan = BatchPlan(np.ones(45, np.int64), 8, 6, (0, 1), "random", "fill")
    drawn = np.concatenate([plan.rows(step) for step in range(6)])
    micro = 8 // processes
    theirs: list[list[int]] = [[] for _ in range(6)]
    for rank in range(processes):
        batches = BatchSampler(drawn[:45].tolist(), micro, drop_last=False)
        for step, rows in enumerate(BatchSamplerShard(batches, processes, rank)):
            theirs[step] += rows
    assert [sorted(rows) for rows in theirs] == [sorted(plan.rows(step).tolist()) for step in range(6)]


def test_rows_with_an_image_are_told_from_those_without(home: Path) -> None:
    run = make_run(home, stage2={"order": "modality", "last_step": "fill", "epochs": 2.0, "steps": None})
    one = prepare_stage(run, 2, run.recipe.stage2, load_tokenizer(run.llm, run.recipe.template))
    # 20 rows with an image, 4 without: all four, and the last four with one, are an epoch's last two steps.
    assert one.plan.with_image.sum() == 20 and one.plan.steps == 12
    kinds = [set(one.plan.with_image[one.plan.rows(step)].tolist()) for step in range(4)]
    assert kinds == [{True}] * 4
    rest = np.concatenate([one.plan.rows(step) for step in (4, 5)])
    assert sorted(one.plan.with_image[rest].tolist()) == [False] * 4 + [True] * 4


@pytest.mark.slow
@pytest.mark.parametrize("order", ORDERS)
def test_the_split_of_a_step_changes_nothing(order: str, home: Path) -> None:
    stage = {"order": order, "last_step": "fill", "batch": 8, "steps": 5}
    whole = make_run(home / "a", **{name: {**stage, "micro_batch": 8} for name in ("stage1", "stage2")})
    parts = make_run(home / "b", **{name: {**stage, "micro_batch": 2} for name in ("stage1", "stage2")})
    train(whole)
    train(parts)
    for number in (1, 2):
        one, other = ([(line["loss"], line["grad_norm"]) for line in log_of(run, number)] for run in (whole, parts))
        assert np.ravel(one).tolist() == pytest.approx(np.ravel(other).tolist(), rel=1e-3)


def test_text_alone_has_the_room_that_an_image_leaves(home: Path) -> None:
    run = make_run(home, dummy_image=True, stage2={"max_length": 70})
    one = prepare_stage(run, 2, run.recipe.stage2, load_tokenizer(run.llm, run.recipe.template))
    image = int(one.data.ids.max())
    collator = Collator(one.data, run.encoder.preprocessing, RowShape(image, 9, 0, 70, dummy_positions=9))
    of_rows = [len(collator.row(row)[0]) for row in one.rows.rows]
    assert of_rows == one.plan.lengths.tolist()
    longest = [np.array(of_rows)[one.plan.with_image == kind].max() for kind in (True, False)]
    assert longest == [70, 70 - 9]
    told = row_facts([ConversationSet(one.data.files[0], home)], make_tokenizer(), "llama_3_meta", 9, 70, 9)
    assert told.lengths.tolist() == of_rows


class Killed(BaseException):
    """Nothing that any code of a training would catch."""


@pytest.mark.slow
@pytest.mark.parametrize("order", ORDERS)
def test_killed_and_started_again_ends_with_the_same_bytes(
    order: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nine steps: the second epoch is begun after six.
    stage = {"order": order, "last_step": "fill", "steps": 9}
    run = make_run(tmp_path, stage1=stage, stage2=stage)
    monkeypatch.setenv("MLLM_EVAL_RESULTS", str(tmp_path / "whole"))
    train(run)
    expected = (run.checkpoint / "model.safetensors").read_bytes()
    losses = [[line["loss"] for line in log_of(run, number)] for number in (1, 2)]

    monkeypatch.setenv("MLLM_EVAL_RESULTS", str(tmp_path / "killed"))
    steps = RunProgress.steps
    for at in ((1, 5), (2, 7)):

        def dying(self: RunProgress, number: int, at: tuple[int, int] = at) -> Any:
            told = steps(self, number)

            def tell(step: int) -> None:
                told(step)
                if (number, step) == at:
                    raise Killed

            return tell

        with monkeypatch.context() as patch:
            patch.setattr(RunProgress, "steps", dying)
            with pytest.raises(Killed):
                train(run)
    told: list[tuple[int, int]] = []
    train(run, lambda done, total: told.append((done, total)))
    # What earlier calls did is no part of this one's work, of which the first step is one part of many alike.
    first, (last, total) = told[0][0], told[-1]
    assert len({all_ for _, all_ in told}) == 1 and last == total and 0.5 < first * len(told) / total < 2
    assert (run.checkpoint / "model.safetensors").read_bytes() == expected
    assert [[line["loss"] for line in log_of(run, number)] for number in (1, 2)] == losses


@pytest.mark.parametrize(
    ("name", "orders"),
    [
        ("webssl-paper", ("random", "modality")),
        ("lora", ("random", "modality")),
        ("cambrian", ("random", "modality")),
        ("metamorph", ("random", "random")),
    ],
)
def test_recipes_draw_rows_as_their_sources_do(name: str, orders: tuple[str, str]) -> None:
    recipe = load_recipe(name)
    assert (recipe.stage1.order, recipe.stage2.order) == orders
    assert recipe.stage1.last_step == recipe.stage2.last_step == "fill"
    stated = {key for key in recipe.assumed() if key.endswith((".order", ".last_step"))}
    assert len(stated) == (4 if name in ("webssl-paper", "lora") else 0)


def test_a_recipe_that_names_no_order_is_the_recipe_it_was() -> None:
    from tiny_models import make_recipe

    def hash_of(**stage: str | bool) -> str:
        return make_recipe(Path("a"), Path("b"), stage2=stage).hash

    assert hash_of() == hash_of(order="length") == hash_of(last_step="drop") == "9f655ba2449a"
    assert len({hash_of(order="random"), hash_of(order="modality"), hash_of(last_step="fill"), hash_of()}) == 4


def test_epochs_become_steps() -> None:
    stage = load_recipe("mini").stage2

    def steps(rows: int, **changes: Any) -> int:
        return stage.model_copy(update={"steps": None, "batch": 16, **changes}).steps_for(rows)

    assert steps(100, last_step="drop") == 6 and steps(100, last_step="fill") == 7
    assert steps(96, last_step="fill") == 6
    assert steps(100, last_step="drop", epochs=2.5) == 15
    assert steps(100, steps=7) == 7

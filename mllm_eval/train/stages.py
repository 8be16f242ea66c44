"""The two stages, from conversations and features to a checkpoint."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save
from torch import Tensor
from transformers.integrations.deepspeed import unset_hf_deepspeed_config
from transformers.utils import logging as transformers_logging

from mllm_eval.adapters import load_encoder_model
from mllm_eval.catalog import ConversationData, Stage
from mllm_eval.data.conversations import ConversationSet
from mllm_eval.environment import repeatable
from mllm_eval.errors import UserError
from mllm_eval.features import Features
from mllm_eval.model import VLM, assemble, load_llm_model, load_tokenizer, save_checkpoint
from mllm_eval.run import Run
from mllm_eval.storage import locate, write_atomic
from mllm_eval.train.batches import Collator, Plan, RowNumbers
from mllm_eval.train.progress import StageLog, latest_whole, remove_others
from mllm_eval.train.tokens import TokenisedSet, tokenise
from mllm_eval.train.trainer import (
    StageTrainer,
    accumulation,
    arguments,
    barrier,
    deepspeed_config,
    join_processes,
    without_compiling,
    world,
)

Progress = Callable[[int, int], None]

# Images that standardisation is measured on.
MEASURED = 2048


@dataclass(frozen=True)
class Prepared:
    """A stage's rows, ready to train on."""

    number: int
    stage: Stage
    data: TokenisedSet
    rows: RowNumbers
    plan: Plan
    images: NDArray[np.int64]
    """The images that the steps read, and those that standardisation is measured on, as numbers into the data's."""


def train(run: Run, progress: Progress | None = None) -> None:
    """Stage 1 (projector), stage 2 (projector and LLM), then the checkpoint; what is complete is skipped.

    Killed at any moment and called again, it goes on from the last whole checkpoint and ends with the same
    bytes. Under a launcher (torchrun and the like) every process calls it. `progress` gets the units of work
    done and of all: images to encode and steps.
    Raises UserError for bad input before anything long is begun: recipe, data, tokenizer, weights.
    """
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    stages = {1: run.recipe.stage1, 2: run.recipe.stage2}
    sets = {number: _check(stage, number) for number, stage in stages.items()}
    tokenizer = load_tokenizer(run.llm, run.recipe.template)
    rank, size = world()
    sharded = any(stage.deepspeed for stage in stages.values())
    if sharded:
        without_compiling()
    join_processes(sharded or size > 1)
    repeatable(run.seed)
    features = Features.of(run)
    if rank == 0:
        for given in sets.values():
            tokenise(given, tokenizer, run.weights["llm"], run.recipe.template)
    barrier()
    prepared = [_prepare(run, number, stage, sets[number], tokenizer) for number, stage in stages.items()]
    todo = _Units(prepared, features, progress)
    if rank == 0:
        for one in prepared:
            features.fill(one.data.refs(one.images), todo.encoded)
            todo.next_set()
    barrier()
    features.store.refresh()
    for one in prepared:
        if one.number == 2 or not _projector(run).is_file():
            _train_stage(run, one, features, tokenizer, todo.steps(one.number))
        barrier()


class _Units:
    """Images and steps counted together, as one bar shows them."""

    def __init__(self, prepared: Sequence[Prepared], features: Features, progress: Progress | None) -> None:
        self.progress = progress
        names = {one.data.images[number][1] for one in prepared for number in one.images}
        self.images = len(features.store.missing(names))
        self.before = {1: 0, 2: prepared[0].plan.steps}
        self.total = self.images + sum(one.plan.steps for one in prepared)
        self.done = 0
        self.of_set = 0

    def encoded(self, done: int, _: int) -> None:
        self.of_set = done
        self._tell(self.done + done)

    def next_set(self) -> None:
        self.done += self.of_set
        self.of_set = 0

    def steps(self, number: int) -> Callable[[int], None]:
        return lambda step: self._tell(self.images + self.before[number] + step)

    def _tell(self, done: int) -> None:
        if self.progress is not None:
            self.progress(done, self.total)


def _projector(run: Run) -> Path:
    return run.stage_dir(1) / "projector.safetensors"


def _check(stage: Stage, number: int) -> list[ConversationSet]:
    """The stage's conversations, and nothing asked of it that cannot be done."""
    where = f"stage {number}"
    if stage.lora is not None:
        raise UserError(f"{where}: `lora` is not supported yet; leave it out to train all weights")
    accumulation(stage, where)
    if stage.deepspeed:
        deepspeed_config(stage.deepspeed)
    return [_conversations(data) for data in stage.data]


def _conversations(data: ConversationData) -> ConversationSet:
    return ConversationSet(locate(data.path), locate(data.images), data.rows)


def _prepare(run: Run, number: int, stage: Stage, sets: Sequence[ConversationSet], tokenizer: Any) -> Prepared:
    recipe = run.recipe
    data = tokenise(sets, tokenizer, run.weights["llm"], recipe.template)
    usable = data.usable(recipe.tokens, stage.max_length)
    lengths = np.minimum(data.lengths(recipe.tokens)[usable], stage.max_length)
    steps = Plan.length(len(usable), stage.batch, stage.epochs, stage.steps, f"stage {number}")
    plan = Plan(lengths, stage.batch, steps, (run.seed, number))
    images = data.images_of(usable[plan.read()])
    if number == 1 and recipe.standardize:
        images = np.union1d(images, _measured(len(data.images)))
    return Prepared(number, stage, data, RowNumbers(usable), plan, images)


def _measured(images: int) -> NDArray[np.int64]:
    """Evenly spaced numbers of images that the statistics are taken from."""
    return np.unique(np.linspace(0, images - 1, MEASURED if images else 0).astype(np.int64))


def _statistics(features: Features, images: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation per dimension [D] over the patches of evenly spaced images, in float64."""
    chosen = [images[at] for at in _measured(len(images))]
    total = torch.zeros(features.store.width, dtype=torch.float64)
    squares = torch.zeros_like(total)
    count = 0
    for start in range(0, len(chosen), 64):
        patches = features.store.get_many(chosen[start : start + 64]).flatten(0, 2).double()
        total += patches.sum(0)
        squares += patches.square().sum(0)
        count += len(patches)
    mean = total / count
    return mean, (squares / count - mean.square()).clamp_min(0).sqrt()


def _model(run: Run, one: Prepared, features: Features, tokenizer: Any) -> VLM:
    """The model at the beginning of a stage, with gradients where the stage trains."""
    repeatable(run.seed)
    model = assemble(run.encoder, run.recipe, load_llm_model(run.llm), tokenizer)
    if one.number == 1 and run.recipe.standardize:
        images = [image for _, image in one.data.images]
        if not images:
            raise UserError("stage 1: `standardize` needs images, the alignment data have none")
        model.projector.set_statistics(*_statistics(features, images))
    if one.number == 2:
        model.projector.load_state_dict(load_file(_projector(run)))
    model.llm.requires_grad_(one.stage.train_llm)
    return model


def _train_stage(run: Run, one: Prepared, features: Features, tokenizer: Any, progress: Callable[[int], None]) -> None:
    # Before the arguments: with ZeRO-3 in force, a model that is loaded would be cut up by its own means.
    model = _model(run, one, features, tokenizer)
    rank, _ = world()
    folder = run.stage_dir(one.number)
    checkpoints = folder / "checkpoints"
    resume = latest_whole(checkpoints)
    barrier()
    stage_log = None
    if rank == 0:
        remove_others(checkpoints, resume)
        stage_log = StageLog(folder / "log.jsonl", int(resume.name.partition("-")[2]) if resume else 0)
    barrier()
    args = arguments(run.recipe, one.stage, checkpoints, one.plan.steps, run.seed, f"stage {one.number}")
    collator = Collator(
        one.data,
        features.store,
        model.config.image_token_id,
        run.recipe.tokens,
        tokenizer.pad_token_id,
        one.stage.max_length,
    )
    trainer = StageTrainer(model, one.stage, args, one.plan, one.rows, collator, stage_log, progress)
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    state = trainer.whole_state()
    unset_hf_deepspeed_config()  # type: ignore[no-untyped-call]
    if rank == 0:
        _keep(run, one.number, model, state)
        shutil.rmtree(checkpoints, ignore_errors=True)


def _keep(run: Run, number: int, model: VLM, state: dict[str, Tensor]) -> None:
    dtype = getattr(torch, run.recipe.dtype)
    if number == 1:
        prefix = "projector."
        own = {
            name.removeprefix(prefix): tensor.float().contiguous().cpu()
            for name, tensor in state.items()
            if name.startswith(prefix)
        }
        write_atomic(_projector(run), save(own))
        return
    tensors = {name: tensor.to("cpu", dtype) for name, tensor in state.items()}
    save_checkpoint(model, run.checkpoint, load_encoder_model(run.encoder, dtype), tensors)

"""Run both training stages, from conversations and features to the final checkpoint."""

from __future__ import annotations

import gc
import logging
import shutil
from collections.abc import Callable
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
from mllm_eval.catalog import Stage, TokenGrid
from mllm_eval.disk import saving
from mllm_eval.distributed import barrier, join, rank, together, without_compiling, world_size
from mllm_eval.environment import repeatable
from mllm_eval.errors import UserError
from mllm_eval.features import Features
from mllm_eval.kernels import use_kernels
from mllm_eval.model import VLM, assemble, load_llm_model, load_tokenizer, save_checkpoint
from mllm_eval.model.internals import fault
from mllm_eval.progress import Progress
from mllm_eval.run import Run
from mllm_eval.storage import hold_to_sum, write_summed
from mllm_eval.train.argumentcheck import check_settings
from mllm_eval.train.batches import Batches, Collator, RowNumbers, RowShape
from mllm_eval.train.diskspace import check_room
from mllm_eval.train.encoding import encode, missing, refs_of, spread, statistics
from mllm_eval.train.keeping import with_room
from mllm_eval.train.liger import use_liger
from mllm_eval.train.order import BatchPlan, planned
from mllm_eval.train.resharding import reshard, resharded_copy, shards
from mllm_eval.train.rowtokens import TokenisedSet
from mllm_eval.train.stageprogress import RunProgress, StageLog, latest_whole, remove_others
from mllm_eval.train.stagerows import check_data, note_rows, tokenise_all, tokenised
from mllm_eval.train.trainer import StageTrainer, arguments
from mllm_eval.train.unreadable import Unreadable

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """A stage's rows, ready to train on."""

    number: int
    stage: Stage
    data: TokenisedSet
    rows: RowNumbers
    plan: BatchPlan
    images: NDArray[np.int64]
    """Images to encode first, as indices into `data.images`: those that steps read from the store, and `measured`."""
    measured: NDArray[np.int64]
    """Images on which the statistics for standardisation are measured, as indices into `data.images`."""
    unreadable: Unreadable


def train(run: Run, progress: Progress | None = None, say: Callable[[str], None] | None = None) -> None:
    """Train stage 1 (projector) and stage 2 (projector and LLM), and write the checkpoint; finished stages are skipped.

    A call after an interruption resumes from the last complete checkpoint, on any number of processes. With the same
    number, the result is the same byte for byte. Under a launcher (torchrun and the like) every process calls this.

    Args:
        progress: called with the work done and the total of encoding and steps, in the unit of `RunProgress`.
        say: called with one line per stage about its rows, before any long computation.

    Raises:
        UserError: bad recipe, data, tokenizer or weights, before any long computation.
    """
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    stages = {1: run.recipe.stage1, 2: run.recipe.stage2}
    check_settings(run)
    tokenizer = load_tokenizer(run.llm, run.recipe.template)
    size = world_size()
    sharded = any(stage.deepspeed for stage in stages.values())
    if sharded:
        without_compiling()
    join(sharded or size > 1)
    repeatable(run.seed)
    features = Features.of(run)
    together(lambda: check_data(stages.values()))
    together(lambda: check_room(run), first_only=True)
    # Rank 0 makes indexes and tokens; the other ranks then read them from the cache.
    together(lambda: tokenise_all(run, stages, tokenizer, say or log.warning), first_only=True)
    prepared = [prepare_stage(run, number, stage, tokenizer) for number, stage in stages.items()]
    prepared = with_room(run, prepared, features)
    sets = [(one.data, one.images) for one in prepared]
    features.mends(lambda names: refs_of(sets, names))
    todo = RunProgress(run, prepared, missing(features.store, sets), progress)
    for one in prepared:
        encode(one.data, one.images, features, one.unreadable, todo.encoded)
        todo.next_set()
    # The stages read features from the store, so the encoder must not occupy the device.
    features.release()
    for one in prepared:
        if one.number == 2 or not _projector(run).is_file():
            train_stage(run, one, features, tokenizer, todo.steps(one.number))
        # Trainer, model and optimiser form reference cycles, so only the garbage collector frees them.
        gc.collect()
        barrier()
    features.store.close()


def prepare(run: Run, say: Callable[[str], None], processes: int) -> None:
    """Do the part of training that needs no GPU: check the inputs, and tokenise both stages in several processes.

    A call after an interruption resumes. `train` then finds the same files that it would have made, byte for byte.
    Raises UserError for bad input.
    """
    stages = {1: run.recipe.stage1, 2: run.recipe.stage2}
    check_settings(run)
    tokenizer = load_tokenizer(run.llm, run.recipe.template)
    check_data(stages.values())
    check_room(run)
    tokenise_all(run, stages, tokenizer, say, processes)


def _projector(run: Run) -> Path:
    return run.stage_dir(1) / "projector.safetensors"


def prepare_stage(run: Run, number: int, stage: Stage, tokenizer: Any) -> Prepared:
    """Read a stage's tokenised rows and plan its steps. Raises UserError where the rows do not fill one batch."""
    recipe = run.recipe
    data = tokenised(run, stage, tokenizer)
    grid = TokenGrid.of(recipe, run.encoder)
    limits = data.limits(stage.max_length, recipe.dummy_positions)
    usable = data.usable(grid.positions, limits)
    lengths = (np.minimum(data.lengths(grid.positions), limits) - data.hidden(grid))[usable]
    plan = planned(run.seed, number, stage, lengths, np.diff(data.image_offsets)[usable] > 0)
    live = stage.features == "live"
    images = np.zeros(0, np.int64) if live else data.images_of(usable[plan.read()])
    measured = spread(len(data.images)) if number == 1 and recipe.standardize else spread(0)
    unreadable = Unreadable(run.stage_dir(number), data)
    return Prepared(number, stage, data, RowNumbers(usable), plan, np.union1d(images, measured), measured, unreadable)


def _model(run: Run, one: Prepared, features: Features, tokenizer: Any) -> VLM:
    """Return the model at the beginning of a stage, with `requires_grad` set for what the stage trains."""
    repeatable(run.seed, run.recipe.deterministic)
    stage = one.stage
    # DeepSpeed keeps its own float32 master weights; training without it needs float32 weights in the model.
    dtype = getattr(torch, run.recipe.dtype) if stage.deepspeed else torch.float32
    model = assemble(run.encoder, run.recipe, load_llm_model(run.llm, dtype), tokenizer)
    if one.number == 1 and run.recipe.standardize:
        images = np.setdiff1d(one.measured, list(one.unreadable.images))
        if not len(images):
            raise UserError("stage 1: `standardize` needs images, the alignment data have none")
        model.projector.set_statistics(*statistics(features.store, one.data.names(images)))
    if one.number == 2:
        hold_to_sum(_projector(run), "put it back, or delete it to train stage 1 again")
        model.projector.load_state_dict(load_file(_projector(run)))
    model.skips = fault() is None
    use_liger(model.llm, stage.kernels)
    model.llm.requires_grad_(stage.train_llm)
    if stage.lora is not None:
        from mllm_eval.train.lora import add_lora

        add_lora(model.llm, stage.lora, run.llm)
    if stage.features == "live":
        model.encoder = load_encoder_model(run.encoder, getattr(torch, run.recipe.dtype))
    if run.recipe.kernels != "auto":
        use_kernels(model, run.recipe.kernels)
    return model


def row_shape(run: Run, stage: Stage, model: VLM, tokenizer: Any) -> RowShape:
    """Return how a stage's rows become positions for the model."""
    return RowShape(
        model.config.image_token_id,
        model.image_tokens,
        tokenizer.pad_token_id,
        stage.max_length,
        model.grid,
        run.recipe.dummy_positions,
    )


def train_stage(run: Run, one: Prepared, features: Features, tokenizer: Any, progress: Callable[[int], None]) -> None:
    """Train a stage, resuming from its newest complete checkpoint, and write its result."""
    # Loaded before the arguments are made: with ZeRO-3 active, transformers would shard the model while loading it.
    model = _model(run, one, features, tokenizer)
    own, size = rank(), world_size()
    folder = run.stage_dir(one.number)
    checkpoints = folder / "checkpoints"
    resume = latest_whole(checkpoints)
    resharded = resume is not None and shards(resume) not in (0, size)
    barrier()
    stage_log = None
    if own == 0:
        remove_others(checkpoints, resume)
        stage_log = StageLog(folder / "log.jsonl", int(resume.name.partition("-")[2]) if resume else 0)
        if resume is not None and resharded:
            reshard(resume)
    barrier()
    if resume is not None and resharded:
        resume = resharded_copy(resume)
    args = arguments(run.recipe, one.stage, checkpoints, one.plan.steps, run.seed, f"stage {one.number}", resharded)
    collator = Collator(
        one.data,
        run.encoder.preprocessing if one.stage.features == "live" else features.store,
        row_shape(run, one.stage, model, tokenizer),
        one.unreadable.images,
    )
    batches = Batches(one.plan, one.rows, collator)
    trainer = StageTrainer(model, one.stage, args, batches, stage_log, progress, one.unreadable)
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    repeatable(run.seed)
    # The frozen encoder is left out, as `keep_stage` loads it again; its tensors may be freed by `release`.
    state = {name: one for name, one in trainer.whole_state().items() if not name.startswith("encoder.")}
    trainer.release(state.values())
    unset_hf_deepspeed_config()  # type: ignore[no-untyped-call]
    if own == 0:
        note_rows(run, one.number, one.data)
        keep_stage(run, one.number, model, state)
        shutil.rmtree(checkpoints, ignore_errors=True)


def keep_stage(run: Run, number: int, model: VLM, state: dict[str, Tensor]) -> None:
    """Write a stage's result from the model's gathered state dict.

    Stage 1 writes the projector in float32, stage 2 the checkpoint in the recipe's dtype, with LoRA adapters merged.
    """
    dtype = getattr(torch, run.recipe.dtype)
    projector, llm = (_part(state, prefix) for prefix in ("projector.", "llm."))
    if number == 1:
        own = {name: tensor.float().contiguous().cpu() for name, tensor in projector.items()}
        write_summed(_projector(run), save(own))
        return
    if (lora := run.recipe.stage2.lora) is not None:
        from mllm_eval.train.lora import merged_state, save_adapter

        adapter = run.stage_dir(2) / "adapter"
        with saving(adapter):
            save_adapter(model.llm, llm, lora, run.llm, adapter)
        llm = merged_state(run.llm, adapter)
    whole = {f"projector.{name}": tensor for name, tensor in projector.items()}
    whole |= {f"llm.{name}": tensor for name, tensor in llm.items()}
    tensors = {name: tensor.to("cpu", dtype) for name, tensor in whole.items()}
    save_checkpoint(model, run.checkpoint, load_encoder_model(run.encoder, dtype), tensors)


def _part(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}

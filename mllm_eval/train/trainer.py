"""transformers' Trainer, adapted to this project's batches, parameter groups, log and checkpoints."""

from __future__ import annotations

import logging
import math
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from transformers import PrinterCallback, Trainer, TrainingArguments

from mllm_eval.catalog import Recipe, Stage
from mllm_eval.disk import saving
from mllm_eval.distributed import COLLECTIVE, backend, barrier, world_size
from mllm_eval.environment import cores
from mllm_eval.model import VLM
from mllm_eval.train.batches import Batches, PlanSampler
from mllm_eval.train.notice import Checkpoints, Notice
from mllm_eval.train.preflight import attention, check_rotary, try_longest
from mllm_eval.train.resharding import forget
from mllm_eval.train.sharding import deepspeed_config
from mllm_eval.train.stageprogress import StageLog, mark_whole
from mllm_eval.train.unreadable import Unreadable

log = logging.getLogger(__name__)

# Checkpoints per stage, and the fewest steps between two of them. Only the last two are kept.
CHECKPOINTS = 10
FEWEST_STEPS = 4
# Most data-loader processes per rank, where the stage encodes images itself.
READERS = 8


def _readers(stage: Stage) -> int:
    """Return the number of processes that decode images in advance: this rank's share of the cores, less one."""
    if stage.features == "store":
        return 0
    return max(0, min(READERS, cores() - 1))


def arguments(
    recipe: Recipe, stage: Stage, folder: Path, steps: int, seed: int, where: str, resharded: bool = False
) -> Any:
    """Return transformers' `TrainingArguments` for a stage; `resharded`: it resumes from a copy made by `reshard`.

    Raises UserError as `deepspeed_config` does, and where the batch cannot be divided among the processes.
    """
    half = recipe.dtype == "bfloat16"
    config = deepspeed_config(recipe, stage, world_size(), where)
    if resharded:
        config = {**(config or {}), "checkpoint": {"load_universal": True}}
    on_gpu = torch.cuda.is_available()
    # Passed only if requested, because the Trainer then calls the model's method for it.
    asked: dict[str, Any] = {"gradient_checkpointing": True} if stage.gradient_checkpointing else {}
    made = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=stage.micro_batch,
        gradient_accumulation_steps=stage.accumulation(world_size(), where),
        max_steps=steps,
        learning_rate=stage.lr,
        weight_decay=stage.weight_decay,
        adam_beta2=stage.adam_beta2,
        max_grad_norm=stage.max_grad_norm,
        lr_scheduler_type=stage.schedule,
        warmup_steps=stage.warmup,
        bf16=half,
        seed=seed,
        data_seed=seed,
        deepspeed=config,
        use_cpu=not on_gpu,
        ddp_backend=backend() or None,
        ddp_timeout=int(COLLECTIVE.total_seconds()),
        save_strategy="steps",
        save_steps=max(FEWEST_STEPS, math.ceil(steps / CHECKPOINTS)),
        save_total_limit=2,
        logging_strategy="steps",
        logging_steps=1,
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        report_to=[],
        remove_unused_columns=False,
        dataloader_num_workers=_readers(stage),
        dataloader_pin_memory=on_gpu,
        **asked,
    )
    # With several visible GPUs the Trainer would use DataParallel; here each process uses one GPU.
    made._n_gpu = min(made.n_gpu, 1)
    return made


def tensors_in(thing: Any, seen: set[int] | None = None) -> Iterator[torch.Tensor]:
    """Yield the tensors in nested containers, and the gradients of these tensors."""
    seen = set() if seen is None else seen
    if id(thing) in seen:
        return
    seen.add(id(thing))
    if isinstance(thing, torch.Tensor):
        yield thing
        if thing.is_leaf and thing.grad is not None:
            yield thing.grad
    elif isinstance(thing, Mapping):
        for value in thing.values():
            yield from tensors_in(value, seen)
    elif isinstance(thing, list | tuple | set | deque):
        for value in thing:
            yield from tensors_in(value, seen)


class StageTrainer(Trainer):
    """Trains one stage: rows by `Plan`, AdamW on trainable parameters, one log line per step, marked checkpoints."""

    def __init__(
        self,
        model: VLM,
        stage: Stage,
        args: Any,
        batches: Batches,
        stage_log: StageLog | None,
        progress: Callable[[int], None],
        unreadable: Unreadable | None = None,
    ) -> None:
        super().__init__(model=model, args=args, train_dataset=batches.rows, data_collator=batches.collator)
        self.stage = stage
        self.plan = batches.plan
        self.stage_log = stage_log
        self.progress = progress
        self.unreadable = unreadable
        self.decays: list[float] = []
        self.tried = False
        # Checkpoints leave out frozen parameters, which are loaded before a checkpoint is read.
        frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}

        def allow(_: Any, keys: Any) -> None:
            keys.missing_keys[:] = [name for name in keys.missing_keys if name not in frozen]

        whole: Any = model
        whole.register_load_state_dict_post_hook(allow)
        self.remove_callback(PrinterCallback)
        self.checkpoints = Checkpoints(Notice(), args.device)
        self.add_callback(self.checkpoints)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return PlanSampler(self.plan)

    def create_optimizer(self, model: Any = None) -> Any:
        """AdamW in up to four groups: LLM and projector, with and without weight decay."""
        if self.optimizer is not None:
            return self.optimizer
        trained: Any = self.model
        decayed = set(self.get_decay_parameter_names(trained))
        projector_lr = self.stage.projector_lr or self.stage.lr
        groups: list[dict[str, Any]] = []
        # The LLM comes first because the logged learning rate is the first group's.
        for prefix, lr in (("llm.", self.stage.lr), ("projector.", projector_lr)):
            for decay in (True, False):
                parameters = [
                    parameter
                    for name, parameter in trained.named_parameters()
                    if parameter.requires_grad and name.startswith(prefix) and (name in decayed) == decay
                ]
                if parameters:
                    weight_decay = self.stage.weight_decay if decay else 0.0
                    groups.append({"params": parameters, "lr": lr, "weight_decay": weight_decay})
        self.decays = [group["weight_decay"] for group in groups]
        betas = (self.args.adam_beta1, self.args.adam_beta2)
        self.optimizer = torch.optim.AdamW(groups, betas=betas, eps=self.args.adam_epsilon, fused=True)
        return self.optimizer

    def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Run the Trainer's step; before the first step, try a pass over the stage's longest rows (`try_longest`)."""
        if not self.tried:
            self.tried = True
            check_rotary(self.model)
            try_longest(self, model)
        return super().training_step(model, inputs, *args, **kwargs)

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Record images of the batch that could not be decoded, then compute the loss as the Trainer does.

        Raises UserError for more broken rows than the recipe allows.
        """
        if (reasons := inputs.pop("unreadable", None)) and self.unreadable is not None:
            self.unreadable.add(dict(reasons))
        return super().compute_loss(model, inputs, *args, **kwargs)

    def floating_point_ops(self, inputs: Any) -> int:
        """Return 0: the Trainer's count would iterate over all parameters at every step."""
        return 0

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Write a line to the stage's log instead of the Trainer's history, which would be part of checkpoints."""
        if "loss" not in logs:
            return
        step = self.state.global_step
        if self.stage_log is not None:
            norm = logs.get("grad_norm")
            tokens = self.plan.tokens(step - 1)
            self.stage_log.add(step, logs["loss"], logs["learning_rate"], norm, tokens)
        self.progress(step)

    def _load_optimizer_and_scheduler(self, checkpoint: Any) -> None:
        """Load them, then restore each parameter group's learning rate and weight decay.

        DeepSpeed's universal format gives every group the settings of the first one.
        """
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None or self.args.deepspeed is None:
            return
        scheduler: Any = self.lr_scheduler
        optimizer: Any = self.optimizer
        rates = zip(optimizer.param_groups, scheduler.get_last_lr(), scheduler.base_lrs, self.decays, strict=True)
        for group, now, first, decay in rates:
            group.update(lr=now, initial_lr=first, weight_decay=decay)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the weights of a checkpoint, unless DeepSpeed's own checkpoint already holds them."""
        if not self.args.deepspeed:
            super().save_model(output_dir, _internal_call)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Save trained parameters and buffers only; frozen parameters are unchanged since loading."""
        if state_dict is None:
            model: Any = self.model
            frozen = {name for name, one in model.named_parameters() if not one.requires_grad}
            state_dict = {name: tensor for name, tensor in model.state_dict().items() if name not in frozen}
        super()._save(output_dir, state_dict)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.args.deepspeed:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        engine: Any = self.model_wrapped
        engine.save_checkpoint = partial(engine.save_checkpoint, exclude_frozen_parameters=True)
        try:
            super()._save_optimizer_and_scheduler(output_dir)
        finally:
            del engine.save_checkpoint

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        begun, folder = monotonic(), Path(str(self.args.output_dir))
        with saving(folder / f"checkpoint-{self.state.global_step}"):
            super()._save_checkpoint(model, trial)
        barrier()
        if self.is_world_process_zero():
            mark_whole(folder / f"checkpoint-{self.state.global_step}")
            forget(folder)
            self.checkpoints.written(monotonic() - begun)
        if told := self.checkpoints.agreed:
            # When one rank ends, the launcher ends the others, so all wait until the checkpoint is complete.
            barrier()
            if self.is_world_process_zero():
                name = signal.Signals(told).name
                log.warning("%s: step %d is kept in a checkpoint", name, self.state.global_step)
            self.checkpoints.notice.obey(told)

    def train(self, *args: Any, **options: Any) -> Any:
        """Train as the Trainer does, but delay signals that end the process until a checkpoint after the step."""
        with self.checkpoints.notice, attention(torch.are_deterministic_algorithms_enabled()):
            return super().train(*args, **options)

    def release(self, kept: Iterable[torch.Tensor]) -> None:
        """Free the memory of a DeepSpeed model and its optimiser state, except for the tensors `kept`.

        DeepSpeed's hooks and coordinators would keep them, 16 bytes per trained parameter, until the process ends:
        those of stage 1 during stage 2, and those of stage 2 during evaluation.
        """
        if not self.args.deepspeed:
            return
        engine: Any = self.model_wrapped
        parameters = list(engine.module.parameters())
        zero = engine.optimizer
        own = [vars(zero), zero.optimizer.state, zero.optimizer.param_groups]
        held = list(tensors_in([parameters, [vars(one) for one in parameters], own]))
        engine.destroy()
        held += tensors_in([parameters, [vars(one) for one in parameters]])
        spared = {one.untyped_storage().data_ptr() for one in kept}
        for tensor in held:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in spared and storage.resizable():
                storage.resize_(0)

    def whole_state(self) -> dict[str, torch.Tensor]:
        """Return the trained model's state dict, gathered from all ranks (complete on rank 0 only)."""
        wrapped = self.model_wrapped if self.args.deepspeed else self.model
        # With ZeRO-3 only rank 0 receives it.
        state: dict[str, torch.Tensor] = self.accelerator.get_state_dict(wrapped) or {}
        # A small tensor may be a view of a buffer of many tensors and would keep the whole buffer in memory.
        whole = {name: one.untyped_storage().nbytes() <= one.nbytes for name, one in state.items()}
        return {name: one if whole[name] else one.clone() for name, one in state.items()}

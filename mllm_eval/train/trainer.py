"""transformers' Trainer with this project's batches, parameter groups, log and checkpoints."""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, Trainer, TrainingArguments

from mllm_eval.catalog import Recipe, Stage
from mllm_eval.catalog.folders import roots
from mllm_eval.errors import UserError, near
from mllm_eval.model import VLM
from mllm_eval.train.batches import Collator, Plan, PlanSampler, RowNumbers
from mllm_eval.train.progress import StageLog, mark_whole

# A stage writes so many checkpoints on its way, but not at every step of a short one, and keeps two.
CHECKPOINTS = 10
FEWEST_STEPS = 4
WAIT = timedelta(days=7)


def world() -> tuple[int, int]:
    """Rank and number of processes, as the launcher says."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def join_processes(distributed: bool) -> None:
    """Make the process group where there are several processes, or where `distributed` asks for it anyway.

    Others wait for rank 0 as long as it prepares data, so the timeout is long.
    """
    if not distributed or torch.distributed.is_initialized():
        return
    if "WORLD_SIZE" not in os.environ:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        alone = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in alone.items()})
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    torch.distributed.init_process_group(backend, timeout=WAIT)


def without_compiling() -> None:
    """Keep DeepSpeed on a CPU from compiling its shared-memory reduction, a minute of gcc that inference alone uses."""
    if not torch.cuda.is_available():
        import deepspeed.ops

        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def barrier() -> None:
    """Wait for the other processes, if there are any."""
    if torch.distributed.is_initialized():
        torch.distributed.barrier()


def deepspeed_config(name: str) -> Path:
    """The native JSON of a name in configs/deepspeed. Raises UserError with the nearest name."""
    found: dict[str, Path] = {}
    for root in reversed(roots()):
        found |= {path.stem: path for path in (root / "configs" / "deepspeed").glob("*.json")}
    if name not in found:
        raise UserError(f"deepspeed config {name!r} is unknown.{near(name, found)} Known: {', '.join(found)}")
    return found[name]


def accumulation(stage: Stage, where: str) -> int:
    """Micro-batches per step on one process. Raises UserError where the total batch does not divide."""
    _, size = world()
    if stage.batch % (stage.micro_batch * size):
        raise UserError(
            f"{where}: batch {stage.batch} is not a multiple of micro_batch {stage.micro_batch} x {size} "
            "processes; change one of them"
        )
    return stage.batch // (stage.micro_batch * size)


def arguments(recipe: Recipe, stage: Stage, folder: Path, steps: int, seed: int, where: str) -> Any:
    """The Trainer's arguments of a stage. Raises UserError for what this version cannot do."""
    half = recipe.dtype == "bfloat16"
    config = str(deepspeed_config(stage.deepspeed)) if stage.deepspeed else None
    on_gpu = torch.cuda.is_available()
    backend = ("nccl" if on_gpu else "gloo") if torch.distributed.is_initialized() else None
    # Only where asked: setting it at all makes the Trainer call the model's switch.
    asked: dict[str, Any] = {"gradient_checkpointing": True} if stage.gradient_checkpointing else {}
    made = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=stage.micro_batch,
        gradient_accumulation_steps=accumulation(stage, where),
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
        ddp_backend=backend,
        ddp_timeout=int(WAIT.total_seconds()),
        save_strategy="steps",
        save_steps=max(FEWEST_STEPS, math.ceil(steps / CHECKPOINTS)),
        save_total_limit=2,
        logging_strategy="steps",
        logging_steps=1,
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        report_to=[],
        remove_unused_columns=False,
        dataloader_num_workers=0,
        dataloader_pin_memory=on_gpu,
        **asked,
    )
    # Several GPUs in one process would mean torch's DataParallel; processes are the launcher's business.
    made._n_gpu = min(made.n_gpu, 1)
    return made


class StageTrainer(Trainer):
    """One stage: rows by `Plan`, AdamW over what is trainable, a line of log a step, checkpoints marked whole."""

    def __init__(
        self,
        model: VLM,
        stage: Stage,
        args: Any,
        plan: Plan,
        rows: RowNumbers,
        collator: Collator,
        stage_log: StageLog | None,
        progress: Callable[[int], None],
    ) -> None:
        super().__init__(model=model, args=args, train_dataset=rows, data_collator=collator)
        self.stage = stage
        self.plan = plan
        self.stage_log = stage_log
        self.progress = progress
        self.remove_callback(PrinterCallback)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return PlanSampler(self.plan)

    def create_optimizer(self, model: Any = None) -> Any:
        """AdamW in up to four groups: LLM and projector, with and without weight decay."""
        if self.optimizer is not None:
            return self.optimizer
        trained: Any = self.model
        decayed = set(self.get_decay_parameter_names(trained))
        projector_lr = self.stage.projector_lr or self.stage.lr
        groups = []
        # The LLM first: the learning rate that is logged is the first group's.
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
        betas = (self.args.adam_beta1, self.args.adam_beta2)
        fused = self.args.deepspeed is None
        self.optimizer = torch.optim.AdamW(groups, betas=betas, eps=self.args.adam_epsilon, fused=fused)
        return self.optimizer

    def floating_point_ops(self, inputs: Any) -> int:
        """None are counted: the Trainer would walk all parameters at every step."""
        return 0

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """One line of the stage's log instead of the Trainer's own history, which checkpoints would carry."""
        if "loss" not in logs:
            return
        step = self.state.global_step
        if self.stage_log is not None:
            norm = logs.get("grad_norm")
            tokens = self.plan.tokens(step - 1)
            self.stage_log.add(step, logs["loss"], logs["learning_rate"], norm, tokens)
        self.progress(step)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        barrier()
        if self.is_world_process_zero():
            mark_whole(Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}")

    def whole_state(self) -> dict[str, torch.Tensor]:
        """All tensors of the trained model, gathered over the processes (complete on rank 0)."""
        wrapped = self.model_wrapped if self.args.deepspeed else self.model
        state: dict[str, torch.Tensor] = self.accelerator.get_state_dict(wrapped)
        return state

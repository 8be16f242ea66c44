"""Checks before a stage's first step: its longest rows must fit into memory, and torch's settings must be right."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mllm_eval.distributed import rank
from mllm_eval.errors import UserError
from mllm_eval.train.order import BatchPlan


def longest_rows(plan: BatchPlan, micro_batch: int) -> NDArray[np.int64]:
    """Return this rank's share [micro_batch] of the longest rows that any step reads."""
    own = rank()
    read = plan.read()
    order = read[np.argsort(-plan.lengths[read], kind="stable")]
    wanted = np.arange(own * micro_batch, (own + 1) * micro_batch)
    longest: NDArray[np.int64] = order[wanted % len(order)]
    return longest


def check_rotary(model: Any) -> None:
    """Raise UserError where RoPE frequencies are not float32, as DeepSpeed before 0.19.4 casts them to bfloat16."""
    for name, buffer in model.named_buffers():
        if name.endswith("inv_freq") and buffer.dtype != torch.float32:
            raise UserError(
                f"{name} is {str(buffer.dtype).removeprefix('torch.')}, which moves far positions; install "
                "deepspeed>=0.19.4"
            )


def attention(deterministic: bool) -> AbstractContextManager[Any]:
    """Return a context that, with `deterministic`, restricts attention to kernels with a deterministic backward pass.

    These are flash attention and the plain matrix products; only the latter accept a mask, which the last layer needs.
    Does nothing where torch only warns about nondeterministic algorithms.
    """
    if not deterministic or torch.is_deterministic_algorithms_warn_only_enabled():
        return nullcontext()
    from torch.nn.attention import SDPBackend, sdpa_kernel

    kernels: AbstractContextManager[Any] = sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.MATH])
    return kernels


@contextmanager
def same_chance(device: torch.device) -> Iterator[None]:
    """Restore torch's random state on exit, so that random draws inside leave no trace."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield


def try_pass(trainer: Any, model: Any, inputs: dict[str, Any]) -> None:
    """Run forward and backward of a micro-batch without effect: its gradients are zero.

    The optimiser is not stepped, and the random state is restored.
    """
    with same_chance(trainer.args.device):
        model.train()
        inputs = trainer._prepare_inputs(inputs)
        with trainer.compute_loss_context_manager():
            loss = trainer.compute_loss(model, inputs) * 0.0
        if trainer.is_deepspeed_enabled:
            model.set_gradient_accumulation_boundary(is_boundary=False)
            model.backward(loss)
            return
        loss.backward()
        model.zero_grad(set_to_none=True)


def try_longest(trainer: Any, model: Any) -> None:
    """Run `try_pass` on the longest rows of the trainer's plan.

    Raises UserError where they do not fit into the GPU's memory.
    """
    rows = longest_rows(trainer.plan, trainer.stage.micro_batch)
    longest = trainer.data_collator([int(trainer.train_dataset[int(row)]) for row in rows])
    longest.pop("unreadable", None)
    try:
        try_pass(trainer, model, longest)
    except torch.OutOfMemoryError as problem:
        said = str(problem).strip().splitlines()
        raise UserError(
            f"{len(rows)} of the longest rows, of {int(trainer.plan.lengths[rows].max())} tokens, do not fit into the "
            f"GPU's memory ({said[0] if said else 'out of memory'}); lower `micro_batch`, set "
            "`gradient_checkpointing: true`, or shard more (`deepspeed: zero3`)"
        ) from None

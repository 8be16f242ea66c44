"""Liger's fused kernels for the LLM in training, an optional dependency that needs a GPU."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch

from mllm_eval.errors import UserError


def check_liger(kernels: str | None, where: str) -> None:
    """Raise UserError where a stage asks for kernels that are not installed or cannot run on this machine."""
    if kernels is None:
        return
    if importlib.util.find_spec("liger_kernel") is None:
        raise UserError(
            f"{where}: `kernels: {kernels}` needs liger-kernel; pip install 'mllm-eval[liger]', or remove the field"
        )
    if not torch.cuda.is_available():
        raise UserError(f"{where}: `kernels: {kernels}` needs a GPU and there is none; remove the field")


def use_liger(llm: Any, kernels: str | None) -> None:
    """Replace RMSNorm and SwiGLU of a LLaMA by Liger's kernels, in place; other models are not affected.

    Liger's fused cross-entropy is not used, as this project saves the same memory by computing logits for targets only.
    """
    if kernels is None:
        return
    from liger_kernel.transformers import apply_liger_kernel_to_llama
    from transformers.models.llama import modeling_llama

    # Liger also replaces transformers' classes, which would change the model that answers questions later.
    before = dict(vars(modeling_llama))
    try:
        apply_liger_kernel_to_llama(
            rope=False,
            cross_entropy=False,
            fused_linear_cross_entropy=False,
            rms_norm=True,
            swiglu=True,
            model=llm,
        )
    finally:
        for name, value in before.items():
            setattr(modeling_llama, name, value)

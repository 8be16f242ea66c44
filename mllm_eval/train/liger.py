"""Fused kernels for the LLM that a stage trains: an extra, for GPUs."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch

from mllm_eval.errors import UserError


def check_liger(kernels: str | None, where: str) -> None:
    """Raises UserError where a stage asks for kernels that are not installed or cannot run here."""
    if kernels is None:
        return
    if importlib.util.find_spec("liger_kernel") is None:
        raise UserError(
            f"{where}: `kernels: {kernels}` needs liger-kernel; pip install 'mllm-eval[liger]', or remove the field"
        )
    if not torch.cuda.is_available():
        raise UserError(f"{where}: `kernels: {kernels}` needs a GPU and there is none; remove the field")


def use_liger(llm: Any, kernels: str | None) -> None:
    """Put Liger's RMS norm and SwiGLU into a LLaMA in place; no other model of this process gets them.

    Its fused cross-entropy is not used: logits are computed for targets alone, which saves what it would.
    """
    if kernels is None:
        return
    from liger_kernel.transformers import apply_liger_kernel_to_llama
    from transformers.models.llama import modeling_llama

    # It also replaces transformers' classes, which would reach the model that answers later on.
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

"""Compute linear layers by oneDNN, if a recipe's `kernels` says so, or by default on CPUs with AVX-512.

torch multiplies float32 matrices by MKL, which uses only 256-bit vectors on CPUs that are not Intel's. oneDNN, which is
part of torch as well, uses the widest vectors available. Results differ by rounding, so a recipe can fix the choice.
On GPUs and for other dtypes torch's own choice is kept.
"""

from __future__ import annotations

from typing import Any, Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mllm_eval.catalog.recipe import Kernels
from mllm_eval.errors import UserError

M = TypeVar("M", bound=nn.Module)


def has_onednn() -> bool:
    """Whether this torch was built with oneDNN."""
    built: Any = torch.backends.mkldnn.is_available
    return bool(built())


def has_avx512() -> bool:
    """Whether the CPU supports AVX-512, and this torch uses it; only then is oneDNN faster."""
    return torch.backends.cpu.get_cpu_capability() == "AVX512"


def resolve_kernels(kernels: Kernels) -> Literal["onednn", "torch"]:
    """Return the library for linear layers on this CPU. Raises UserError for oneDNN if torch was built without it."""
    if kernels == "onednn" and not has_onednn():
        raise UserError(
            "`kernels: onednn`: this torch was built without oneDNN; say `kernels: torch`, or install another"
        )
    if kernels == "auto":
        return "onednn" if has_onednn() and has_avx512() else "torch"
    return kernels


def kernels_here(kernels: Kernels) -> Literal["onednn", "torch"]:
    """Return the library for linear layers on this machine: `torch` on a GPU, else as `resolve_kernels`."""
    return "torch" if torch.cuda.is_available() else resolve_kernels(kernels)


def product(states: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return `states @ weight.T + bias` [..., N] by oneDNN, without gradient.

    states [..., K], weight [N, K] and bias [N] must be float32 on the CPU. `weight` must be contiguous, since oneDNN is
    up to a hundred times slower for other layouts.
    """
    multiplied: Tensor = torch.ops.mkldnn._linear_pointwise.default(states, weight, bias, "none", [], "")
    return multiplied


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(states, weight)
        return product(states, weight, bias)

    @staticmethod
    def backward(ctx: Any, above: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        states, weight = ctx.saved_tensors
        by_states, by_weight, by_bias = ctx.needs_input_grad
        rows = above.reshape(-1, above.shape[-1])
        return (
            product(above.contiguous(), weight.T.contiguous()) if by_states else None,
            product(rows.T.contiguous(), states.reshape(-1, states.shape[-1]).T.contiguous()) if by_weight else None,
            rows.sum(0) if by_bias else None,
        )


class OnednnLinear(nn.Linear):
    """A linear layer that uses oneDNN for float32 on the CPU, and torch's implementation otherwise."""

    def forward(self, input: Tensor) -> Tensor:
        weight = self.weight
        fits = weight.device.type == "cpu" and weight.dtype == input.dtype == torch.float32 and weight.is_contiguous()
        # Autocast requests half precision for float32 tensors, which only torch's own layer respects.
        if torch.is_autocast_enabled("cpu") or not (fits and input.numel()):
            return F.linear(input, weight, self.bias)
        if torch.is_grad_enabled() and (input.requires_grad or weight.requires_grad):
            multiplied: Tensor = _Product.apply(input, weight, self.bias)  # type: ignore[no-untyped-call]
            return multiplied
        return product(input, weight, self.bias)


def use_kernels(model: M, kernels: Kernels = "auto") -> M:
    """Switch a model's linear layers to these kernels, in place, and return the model.

    Raises UserError as `resolve_kernels` does.
    """
    to = OnednnLinear if resolve_kernels(kernels) == "onednn" else nn.Linear
    for module in model.modules():
        if type(module) in (nn.Linear, OnednnLinear):
            module.__class__ = to
    return model

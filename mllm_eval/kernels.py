"""Linear layers through oneDNN: on request, or where nothing is said on CPUs with AVX-512.

torch multiplies float32 matrices with MKL, which keeps to 256-bit vectors on processors that Intel did not make;
oneDNN, built into torch too, takes the widest there are. The function is the same, the rounding another, so a recipe
may say which it is (`kernels`). A GPU and another precision always keep torch's own choice.
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
    """Whether this machine's CPU has the vectors that make oneDNN worth it, and this torch uses them."""
    return torch.backends.cpu.get_cpu_capability() == "AVX512"


def resolve_kernels(kernels: Kernels) -> Literal["onednn", "torch"]:
    """What linear layers are computed by on this machine's CPU. Raises UserError for oneDNN where torch has none."""
    if kernels == "onednn" and not has_onednn():
        raise UserError(
            "`kernels: onednn`: this torch was built without oneDNN; say `kernels: torch`, or install another"
        )
    if kernels == "auto":
        return "onednn" if has_onednn() and has_avx512() else "torch"
    return kernels


def kernels_here(kernels: Kernels) -> Literal["onednn", "torch"]:
    """What linear layers are computed by where models go on this machine, a GPU or its CPU."""
    return "torch" if torch.cuda.is_available() else resolve_kernels(kernels)


def product(states: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`states @ weight.T + bias`: states [..., K], weight [N, K], bias [N], float32 on the CPU; no gradient.

    `weight` must be contiguous: oneDNN reads other layouts slowly, a hundred times slower for some.
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
    """A linear layer that computes with oneDNN where it can."""

    def forward(self, input: Tensor) -> Tensor:
        weight = self.weight
        fits = weight.device.type == "cpu" and weight.dtype == input.dtype == torch.float32 and weight.is_contiguous()
        # Autocast asks for half precision of float32 tensors, and torch's own layer hears it.
        if torch.is_autocast_enabled("cpu") or not (fits and input.numel()):
            return F.linear(input, weight, self.bias)
        if torch.is_grad_enabled() and (input.requires_grad or weight.requires_grad):
            multiplied: Tensor = _Product.apply(input, weight, self.bias)  # type: ignore[no-untyped-call]
            return multiplied
        return product(input, weight, self.bias)


def use_kernels(model: M, kernels: Kernels = "auto") -> M:
    """The model with its linear layers computed by these, weights where they are.

    Raises UserError as `resolve_kernels` does.
    """
    to = OnednnLinear if resolve_kernels(kernels) == "onednn" else nn.Linear
    for module in model.modules():
        if type(module) in (nn.Linear, OnednnLinear):
            module.__class__ = to
    return model

"""Linear layers through oneDNN on CPUs with AVX-512.

torch multiplies float32 matrices with MKL, which keeps to 256-bit vectors on processors that Intel did not make;
oneDNN, built into torch too, takes the widest there are. The function is the same, the rounding another. Everything
else (a GPU, another precision, an older CPU) stays with torch's own choice.
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


def wide() -> bool:
    """Whether this machine's CPU has the vectors that make oneDNN worth it, and this torch has oneDNN."""
    built: Any = torch.backends.mkldnn.is_available
    return bool(built()) and torch.backends.cpu.get_cpu_capability() == "AVX512"


def product(states: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`states @ weight.T + bias`: states [..., K], weight [N, K], bias [N], float32 on the CPU; no gradient.

    `weight` must be contiguous: oneDNN reads other layouts slowly, a hundred times slower for some.
    """
    found: Tensor = torch.ops.mkldnn._linear_pointwise.default(states, weight, bias, "none", [], "")
    return found


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


class QuickLinear(nn.Linear):
    """A linear layer that computes with oneDNN where it can."""

    def forward(self, input: Tensor) -> Tensor:
        weight = self.weight
        fits = weight.device.type == "cpu" and weight.dtype == input.dtype == torch.float32 and weight.is_contiguous()
        if not (fits and input.numel()):
            return F.linear(input, weight, self.bias)
        if torch.is_grad_enabled() and (input.requires_grad or weight.requires_grad):
            found: Tensor = _Product.apply(input, weight, self.bias)  # type: ignore[no-untyped-call]
            return found
        return product(input, weight, self.bias)


def quick(model: M, on: bool = True) -> M:
    """The model with its linear layers made quick (or, with `on` false, plain again), weights where they are."""
    was, to = (nn.Linear, QuickLinear) if on else (QuickLinear, nn.Linear)
    for module in model.modules() if wide() or not on else ():
        if type(module) is was:
            module.__class__ = to
    return model

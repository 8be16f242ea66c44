"""timm's ConvNeXt as the image tower of a CLIP: overlapping cells instead of patches (`mllm-eval[timm]`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    # mypy finds the file under this path; at run time it is part of mllm_eval.adapters.
    from adapters.timm import Family as Timm
else:
    from mllm_eval.adapters.timm import Family as Timm


class OverTokens(nn.Module):
    """Applies a norm of maps [B, D, h, w] to tokens [B, N, D], with the same weights."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        # The tuple keeps torch from registering the norm's weights a second time.
        self._norm = (norm,)

    def forward(self, states: Tensor) -> Tensor:
        """Normed tokens [B, N, D]."""
        (norm,) = self._norm
        return functional.layer_norm(states, (states.shape[-1],), norm.weight, norm.bias, norm.eps)


class Family(Timm):
    """ConvNeXt. Its layers are the four stages; only the last one has the yaml's width and grid."""

    options: ClassVar[dict[str, Any]] = {}
    needed: ClassVar[tuple[str, ...]] = ("stages", "head.norm")
    overlaps: ClassVar[bool] = True
    tapers: ClassVar[bool] = True

    @classmethod
    def blocks_of(cls, model: Any) -> Sequence[nn.Module]:
        """The stages in order."""
        stages: Sequence[nn.Module] = model.stages
        return stages

    @classmethod
    def norm_of(cls, model: Any) -> nn.Module:
        """The norm of the head, which timm applies to the mean of all cells."""
        return OverTokens(model.head.norm)

    @classmethod
    def prefix_of(cls, model: Any) -> int:
        """0: every token is a cell."""
        return 0

    @classmethod
    def found_in(cls, model: Any) -> dict[str, Any]:
        """Stride and width of the last stage."""
        last = model.feature_info[-1]
        return {"patch": last["reduction"], "width": last["num_chs"]}

    def pool(self, states: Tensor) -> Tensor:
        """The normed mean of all cells [B, D]."""
        pooled: Tensor = self.final_norm()(states.mean(1))
        return pooled

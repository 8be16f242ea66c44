"""timm's ConvNeXt, as CLIP's image half: cells that overlap, and no patches (`pip install mllm-eval[timm]`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    # Its name by its path; at run time the families are part of mllm_eval.adapters.
    from adapters.timm import Family as Timm
else:
    from mllm_eval.adapters.timm import Family as Timm


class _OverTokens(nn.Module):
    """A norm of maps [B, D, h, w] applied to tokens [B, N, D], with its own weights."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        # Not registered here: the weights are the model's.
        self._norm = [norm]

    def forward(self, states: Tensor) -> Tensor:
        """Normed tokens [B, N, D]."""
        (norm,) = self._norm
        return functional.layer_norm(states, (states.shape[-1],), norm.weight, norm.bias, norm.eps)


class Family(Timm):
    """Layers are the four stages; only the last has the width and the grid that the yaml tells."""

    options = {}  # noqa: RUF012
    overlaps = True

    @property
    def prefix(self) -> int:
        """None: every token is a cell."""
        return 0

    @classmethod
    def missing(cls, model: Any) -> str | None:
        """What a model of timm lacks that this family asks for."""
        return next((name for name in ("stages", "head.norm") if not _has(model, name)), None)

    def found(self) -> dict[str, Any]:
        """Stride and width of the last stage."""
        last = self.model.feature_info[-1]
        return {"patch": last["reduction"], "width": last["num_chs"]}

    def blocks(self) -> Sequence[nn.Module]:
        """The stages in order."""
        stages: Sequence[nn.Module] = self.model.stages
        return stages

    def final_norm(self) -> nn.Module:
        """The head's, which the class applies to the mean of all cells."""
        return _OverTokens(self.model.head.norm)

    def pool(self, states: Tensor) -> Tensor:
        """The normed mean of all cells [B, D]."""
        return self.final_norm()(states.mean(1))  # type: ignore[no-any-return]


def _has(model: Any, path: str) -> bool:
    for name in path.split("."):
        model = getattr(model, name, None)
    return isinstance(model, nn.Module)

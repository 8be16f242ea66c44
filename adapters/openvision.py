"""OpenVision: a CLIP without the norm before the first block. It compares the mean of the patches with texts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from transformers import CLIPVisionModel

from mllm_eval.catalog.architecture import FORMS

if TYPE_CHECKING:
    # mypy finds the file under this path; at run time it is part of mllm_eval.adapters.
    from adapters.clip import Family as Clip
else:
    from mllm_eval.adapters.clip import Family as Clip


class CLIPVisionModelWithoutPreNorm(CLIPVisionModel):
    """`CLIPVisionModel` without the norm before its first block."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        # The typo is in transformers.
        self.pre_layrnorm = nn.Identity()  # type: ignore[assignment]


class Family(Clip):
    """Checkpoints of open_clip (`open_clip_pytorch_model.bin`). `pooled` is post_layernorm of the patches' mean."""

    model_types = ()
    form = FORMS["openvision"]

    @classmethod
    def transformers_class(cls) -> Any:
        """`CLIPVisionModel` without its first norm."""
        return CLIPVisionModelWithoutPreNorm

    def pool(self, states: Tensor) -> Tensor:
        """post_layernorm of the mean of the patches [B, D], from states [B, N, D]."""
        pooled: Tensor = self.final_norm()(states[:, self.prefix :].mean(1))
        return pooled

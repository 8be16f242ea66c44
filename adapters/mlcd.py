"""MLCD with rotary positions: a CLIP without learned patch positions. The class token has learned rotary angles."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from mllm_eval.catalog.architecture import FORMS

if TYPE_CHECKING:
    # mypy finds the file under this path; at run time it is part of mllm_eval.adapters.
    from adapters.clip import Family as Clip
else:
    from mllm_eval.adapters.clip import Family as Clip


class Family(Clip):
    """`MLCDVisionModel`. `pooled` is post_layernorm(CLS). The smaller MLCD models belong to family `clip`."""

    model_types = ("mlcd_vision_model", "mlcd")
    class_name = "MLCDVisionModel"
    form = FORMS["mlcd"]
    left_out = r"(.*\.)?(position_ids|inv_freq)"
    layout = None

    def forward_options(self, pixels: Tensor) -> dict[str, Any]:
        """None: rotary positions fit every size."""
        return {}

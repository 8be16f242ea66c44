"""MLCD of rotary positions: a CLIP whose patches have no learned positions; the class token has angles of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from mllm_eval.catalog.architecture import FORMS

if TYPE_CHECKING:
    # Its name by its path; at run time the families are part of mllm_eval.adapters.
    from adapters.clip import Family as Clip
else:
    from mllm_eval.adapters.clip import Family as Clip


class Family(Clip):
    """`MLCDVisionModel`; pooled = post_layernorm(CLS). The smaller MLCD models are of family `clip`."""

    model_types = ("mlcd_vision_model", "mlcd")
    class_name = "MLCDVisionModel"
    form = FORMS["mlcd"]
    left_out = r"(.*\.)?(position_ids|inv_freq)"
    layout = None

    def forward_options(self, pixels: Tensor) -> dict[str, Any]:
        """Rotary positions fit every size."""
        return {}

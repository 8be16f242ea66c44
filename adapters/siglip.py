"""SigLIP and fixed-resolution SigLIP2: no CLS token; an attention head pools."""

from __future__ import annotations

from torch import Tensor

from mllm_eval.adapters.backbone import Backbone
from mllm_eval.catalog.architecture import FORMS


class Family(Backbone):
    """`SiglipVisionModel`. `pooled` is its attention pooling of the normed tokens."""

    model_types = ("siglip_vision_model", "siglip")
    class_name = "SiglipVisionModel"
    blocks_at = "encoder.layers"
    norm_at = "post_layernorm"
    form = FORMS["siglip"]
    left_out = r"text_model\..*|logit_scale|logit_bias|(.*\.)?position_ids"

    def pool(self, states: Tensor) -> Tensor:
        """Attention pooling [B, D] of states [B, N, D]."""
        pooled: Tensor = self.model.head(self.final_norm()(states))
        return pooled

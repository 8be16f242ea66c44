"""CLIP and MetaCLIP. `post_layernorm` was trained on the CLS token only, so their yamls say `norm: false`."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from mllm_eval.adapters.backbone import Backbone
from mllm_eval.adapters.original import OPEN_CLIP, Layout
from mllm_eval.catalog.architecture import FORMS


class Family(Backbone):
    """`CLIPVisionModel`. `pooled` is post_layernorm(CLS), the input of the text-image projection."""

    model_types: ClassVar[tuple[str, ...]] = ("clip_vision_model", "clip")
    class_name = "CLIPVisionModel"
    blocks_at = "encoder.layers"
    norm_at = "post_layernorm"
    form = FORMS["clip"]
    left_out = r"text_model\..*|(text|visual)_projection\.weight|logit_scale|(.*\.)?position_ids"
    layout: ClassVar[Layout | None] = OPEN_CLIP

    def pool(self, states: Tensor) -> Tensor:
        """post_layernorm(CLS) [B, D] from states [B, N, D]."""
        pooled: Tensor = self.final_norm()(states[:, 0])
        return pooled

"""ViT, and MAE's weights in `ViTModel`, because `ViTMAEModel` shuffles its tokens even at mask ratio 0."""

from __future__ import annotations

from mllm_eval.adapters.backbone import Backbone
from mllm_eval.adapters.original import VIT
from mllm_eval.catalog.architecture import FORMS


class Family(Backbone):
    """`ViTModel` without its pooling head, which MAE's weights lack and Web-MAE does not use."""

    model_types = ("vit", "vit_mae")
    class_name = "ViTModel"
    options = {"add_pooling_layer": False}  # noqa: RUF012
    blocks_at = "layers"
    norm_at = "layernorm"
    form = FORMS["vit"]
    left_out = r"(.*\.)?(classifier|pooler|decoder)\..*|(.*\.)?mask_token"
    layout = VIT

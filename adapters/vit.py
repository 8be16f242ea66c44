"""ViT, and MAE's weights through `ViTModel`: `ViTMAEModel` shuffles its tokens even at mask ratio 0."""

from __future__ import annotations

from typing import Any

from torch import nn

from mllm_eval.adapters.base import EncoderModel


class Family(EncoderModel):
    """`ViTModel` without its pooling head, which MAE's weights do not hold."""

    model_types = ("vit", "vit_mae")
    prefix = 1

    @classmethod
    def transformers_class(cls) -> Any:
        from transformers import ViTModel

        return ViTModel

    @classmethod
    def class_options(cls) -> dict[str, Any]:
        return {"add_pooling_layer": False}

    def blocks(self) -> nn.ModuleList:
        layers: nn.ModuleList = self.model.layers
        return layers

    def final_norm(self) -> nn.Module:
        norm: nn.Module = self.model.layernorm
        return norm

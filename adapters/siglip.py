"""SigLIP and fixed-resolution SigLIP2: no CLS token to drop; an attention head pools."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from mllm_eval.adapters.base import EncoderModel


class Family(EncoderModel):
    """`SiglipVisionModel`; pooled = its attention pooling of the normed tokens."""

    model_types = ("siglip_vision_model", "siglip")
    prefix = 0

    @classmethod
    def transformers_class(cls) -> Any:
        from transformers import SiglipVisionModel

        return SiglipVisionModel

    def blocks(self) -> nn.ModuleList:
        layers: nn.ModuleList = self.model.encoder.layers
        return layers

    def final_norm(self) -> nn.Module:
        norm: nn.Module = self.model.post_layernorm
        return norm

    def pool(self, states: Tensor) -> Tensor:
        pooled: Tensor = self.model.head(self.final_norm()(states))
        return pooled

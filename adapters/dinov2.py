"""DINOv2 and Web-DINO: one CLS token, final norm, position embeddings always interpolated."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from mllm_eval.adapters.base import EncoderModel


class Family(EncoderModel):
    """`Dinov2Model`."""

    model_types = ("dinov2",)
    prefix = 1

    @classmethod
    def transformers_class(cls) -> Any:
        from transformers import Dinov2Model

        return Dinov2Model

    def blocks(self) -> nn.ModuleList:
        layers: nn.ModuleList = self.model.encoder.layer
        return layers

    def final_norm(self) -> nn.Module:
        norm: nn.Module = self.model.layernorm
        return norm

    def forward_options(self, pixels: Tensor) -> dict[str, Any]:
        return {}

"""CLIP and MetaCLIP: `post_layernorm` is meant for the CLS token only, so patches want `norm: false`."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from mllm_eval.adapters.base import EncoderModel


class Family(EncoderModel):
    """`CLIPVisionModel`; pooled = post_layernorm(CLS), the vector that the text projection sees."""

    model_types = ("clip_vision_model", "clip")
    prefix = 1

    @classmethod
    def transformers_class(cls) -> Any:
        from transformers import CLIPVisionModel

        return CLIPVisionModel

    def blocks(self) -> nn.ModuleList:
        layers: nn.ModuleList = self.model.encoder.layers
        return layers

    def final_norm(self) -> nn.Module:
        norm: nn.Module = self.model.post_layernorm
        return norm

    def pool(self, states: Tensor) -> Tensor:
        pooled: Tensor = self.final_norm()(states[:, 0])
        return pooled

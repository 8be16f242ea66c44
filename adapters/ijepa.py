"""I-JEPA: no CLS token, every token is a patch. Mind its converted processor: wrong mean and std."""

from __future__ import annotations

from typing import Any

from torch import nn

from mllm_eval.adapters.base import EncoderModel


class Family(EncoderModel):
    """`IJepaModel` without its pooling head."""

    model_types = ("ijepa",)
    prefix = 0

    @classmethod
    def transformers_class(cls) -> Any:
        from transformers import IJepaModel

        return IJepaModel

    @classmethod
    def class_options(cls) -> dict[str, Any]:
        return {"add_pooling_layer": False}

    def blocks(self) -> nn.ModuleList:
        layers: nn.ModuleList = self.model.layers
        return layers

    def final_norm(self) -> nn.Module:
        norm: nn.Module = self.model.layernorm
        return norm

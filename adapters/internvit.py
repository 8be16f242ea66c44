"""InternViT of 300M: a vision transformer with layer scales and no final norm."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from mllm_eval.adapters.backbone import Backbone
from mllm_eval.adapters.original import INTERNVIT
from mllm_eval.catalog.architecture import FORMS

if TYPE_CHECKING:
    from mllm_eval.catalog import Encoder


class Family(Backbone):
    """`InternVLVisionModel`; InternViT's own repositories hold code and other names, and are read as one file."""

    model_types = ("internvl_vision",)
    class_name = "InternVLVisionModel"
    blocks_at = "encoder.layer"
    norm_at = "layernorm"
    form = FORMS["internvit"]
    left_out = r"(?!.*)"
    layout = INTERNVIT

    @classmethod
    def shape_values(cls, facts: Encoder) -> dict[str, Any]:
        """As of every family, and the biases of queries, keys and values, which the class leaves out otherwise."""
        shape = facts.architecture
        assert shape is not None
        return {**super().shape_values(facts), "attention_bias": shape.qkv_bias is not False}

    @classmethod
    def native(cls, config: Any) -> int:
        """Its config holds rows and columns."""
        return int(config.image_size[0])

    @classmethod
    def found_in(cls, config: Any) -> dict[str, Any]:
        """As of every family; its config holds rows and columns, and says whether queries have a bias."""
        return {
            **super().found_in(config),
            "patch": int(config.patch_size[0]),
            "qkv_bias": bool(config.attention_bias),
        }

    def forward_options(self, pixels: Tensor) -> dict[str, Any]:
        """The class interpolates its position embeddings by itself."""
        return {}

"""InternViT-300M: a vision transformer with layer scales and without a final norm."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from mllm_eval.adapters.backbone import Backbone
from mllm_eval.adapters.original import INTERNVIT
from mllm_eval.catalog.architecture import FORMS

if TYPE_CHECKING:
    from mllm_eval.catalog import Encoder


class Family(Backbone):
    """`InternVLVisionModel`. InternViT's own repositories use other tensor names, so they are read as one file."""

    model_types = ("internvl_vision",)
    class_name = "InternVLVisionModel"
    blocks_at = "encoder.layer"
    norm_at = "layernorm"
    form = FORMS["internvit"]
    left_out = r"(?!.*)"
    layout = INTERNVIT

    @classmethod
    def shape_values(cls, facts: Encoder) -> dict[str, Any]:
        """The base values, and the biases of queries, keys and values, which the class omits by default."""
        shape = facts.architecture
        assert shape is not None
        return {**super().shape_values(facts), "attention_bias": shape.qkv_bias is not False}

    @classmethod
    def native(cls, config: Any) -> int:
        """Edge in pixels; the config holds rows and columns."""
        return int(config.image_size[0])

    @classmethod
    def found_in(cls, config: Any) -> dict[str, Any]:
        """The base facts. The config holds the patch size as rows and columns, and says whether queries have a bias."""
        return {
            **super().found_in(config),
            "patch": int(config.patch_size[0]),
            "qkv_bias": bool(config.attention_bias),
        }

    def forward_options(self, pixels: Tensor) -> dict[str, Any]:
        """None: the class interpolates its position embeddings itself."""
        return {}

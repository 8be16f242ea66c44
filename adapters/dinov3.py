"""DINOv3: one CLS token, four registers, and rotary positions, which are computed for every image size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from mllm_eval.adapters.backbone import Backbone
from mllm_eval.catalog.architecture import FORMS

if TYPE_CHECKING:
    from mllm_eval.catalog import Encoder


class Family(Backbone):
    """`DINOv3ViTModel`. The final norm changes the scale of the patches a lot, so the yaml's `norm` matters here."""

    model_types = ("dinov3_vit",)
    class_name = "DINOv3ViTModel"
    blocks_at = "model.layer"
    norm_at = "norm"
    form = FORMS["dinov3"]
    left_out = r"(?!.*)"

    @classmethod
    def shape_values(cls, facts: Encoder) -> dict[str, Any]:
        """A gated network has SiLU by default. Keys have no bias; queries and values have one by default."""
        shape = facts.architecture
        assert shape is not None
        gated, bias = shape.ffn == "swiglu", shape.qkv_bias is not False
        return {
            "intermediate_size": shape.hidden,
            "use_gated_mlp": gated,
            "hidden_act": shape.activation or ("silu" if gated else "gelu"),
            "num_register_tokens": cls.form.registers,
            "query_bias": bias,
            "value_bias": bias,
        }

    @classmethod
    def ffn(cls, config: Any) -> str:
        """Kind of feed-forward network, `mlp` or `swiglu`."""
        return "swiglu" if config.use_gated_mlp else "mlp"

    @classmethod
    def found_in(cls, config: Any) -> dict[str, Any]:
        """The base facts, and whether queries and values have a bias."""
        return {**super().found_in(config), "qkv_bias": bool(config.query_bias and config.value_bias)}

    def forward_options(self, pixels: Tensor) -> dict[str, Any]:
        """None: rotary positions fit every size."""
        return {}

"""DINOv3: one CLS token, four registers, rotary positions that are computed anew for every size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from mllm_eval.adapters.backbone import Backbone
from mllm_eval.catalog.architecture import FORMS

if TYPE_CHECKING:
    from mllm_eval.catalog import Encoder


class Family(Backbone):
    """`DINOv3ViTModel`. Patches before the final norm are of another size altogether: `norm` says which are meant."""

    model_types = ("dinov3_vit",)
    class_name = "DINOv3ViTModel"
    blocks_at = "model.layer"
    norm_at = "norm"
    form = FORMS["dinov3"]
    left_out = r"(?!.*)"

    @classmethod
    def shape_values(cls, facts: Encoder) -> dict[str, Any]:
        """Gated networks have another activation; keys never have a bias, queries and values but in the largest."""
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
        """`mlp` or `swiglu`."""
        return "swiglu" if config.use_gated_mlp else "mlp"

    @classmethod
    def found_in(cls, config: Any) -> dict[str, Any]:
        """As of every family, and whether queries and values have a bias."""
        return {**super().found_in(config), "qkv_bias": bool(config.query_bias and config.value_bias)}

    def forward_options(self, pixels: Tensor) -> dict[str, Any]:
        """Rotary positions fit every size."""
        return {}

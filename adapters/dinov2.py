"""DINOv2 and Web-DINO: one CLS token, no registers, LayerScale, an MLP or a SwiGLU in each block."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from mllm_eval.adapters.backbone import Backbone
from mllm_eval.adapters.original import DINOV2, Layout
from mllm_eval.catalog.architecture import FORMS
from mllm_eval.errors import UserError

if TYPE_CHECKING:
    from mllm_eval.catalog import Encoder

# Ratios of hidden width to width that are tried; all released checkpoints have 4.
RATIOS = range(1, 17)


def hidden_width(width: int, ratio: float, swiglu: bool) -> int:
    """Hidden width of the feed-forward network: for a SwiGLU 2/3 of an MLP's, rounded up to a multiple of 8."""
    hidden = int(width * ratio)
    return (int(hidden * 2 / 3) + 7) // 8 * 8 if swiglu else hidden


class Family(Backbone):
    """`Dinov2Model`. Weights with registers have another model type and are refused."""

    model_types: ClassVar[tuple[str, ...]] = ("dinov2",)
    class_name = "Dinov2Model"
    blocks_at = "encoder.layer"
    norm_at = "layernorm"
    form = FORMS["dinov2"]
    left_out = r"classifier\..*"
    layout: ClassVar[Layout | None] = DINOV2

    @classmethod
    def shape_values(cls, facts: Encoder) -> dict[str, Any]:
        """The class takes a ratio instead of a hidden width. Raises UserError if no whole ratio gives the yaml's."""
        shape = facts.architecture
        assert shape is not None
        swiglu = shape.ffn == "swiglu"
        ratio = next((ratio for ratio in RATIOS if hidden_width(facts.width, ratio, swiglu) == shape.hidden), None)
        if ratio is None:
            raise UserError(
                f"encoder {facts.name}: no whole ratio to width {facts.width} gives hidden: {shape.hidden} "
                f"({shape.ffn}); a ratio of 4 gives {hidden_width(facts.width, 4, swiglu)}"
            )
        return {"mlp_ratio": ratio, "use_swiglu_ffn": swiglu}

    @classmethod
    def hidden(cls, config: Any) -> int:
        """Hidden width of the feed-forward network."""
        return hidden_width(config.hidden_size, config.mlp_ratio, config.use_swiglu_ffn)

    @classmethod
    def ffn(cls, config: Any) -> str:
        """Kind of feed-forward network, `mlp` or `swiglu`."""
        return "swiglu" if config.use_swiglu_ffn else "mlp"

    def forward_options(self, pixels: Tensor) -> dict[str, Any]:
        """None: the class interpolates its position embeddings itself."""
        return {}

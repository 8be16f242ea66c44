"""AIMv2 of a fixed resolution: no CLS token, RMS norms, SwiGLU, no biases in the blocks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from mllm_eval.adapters.backbone import Backbone
from mllm_eval.catalog.architecture import FORMS
from mllm_eval.errors import UserError

if TYPE_CHECKING:
    from mllm_eval.catalog import Encoder


class Family(Backbone):
    """`Aimv2VisionModel`. That class accepts only its native size; this family interpolates its positions."""

    model_types = ("aimv2_vision_model",)
    class_name = "Aimv2VisionModel"
    blocks_at = "encoder.layers"
    norm_eps = "rms_norm_eps"
    norm_at = "rms_norm"
    form = FORMS["aimv2"]
    left_out = r"(.*\.)?position_ids"

    def __init__(self, facts: Encoder, model: Any) -> None:
        super().__init__(facts, model)
        self._rows_columns = (0, 0)
        model.embeddings.patch_embed.register_forward_hook(self._see_grid)
        model.embeddings.position_embedding.register_forward_hook(self._fit_positions)

    def _see_grid(self, _module: nn.Module, _inputs: Any, cells: Tensor) -> None:
        self._rows_columns = (cells.shape[-2], cells.shape[-1])

    def _fit_positions(self, _module: nn.Module, _inputs: Any, positions: Tensor) -> Tensor:
        """Interpolate positions [1, N, D] of the native grid to the current grid, bicubic as in the other families."""
        native = int(positions.shape[1] ** 0.5)
        if self._rows_columns == (native, native):
            return positions
        grid = positions.transpose(1, 2).reshape(1, -1, native, native)
        fitted = nn.functional.interpolate(grid.float(), self._rows_columns, mode="bicubic", align_corners=False)
        return fitted.to(positions.dtype).flatten(2).transpose(1, 2)

    @classmethod
    def shape_values(cls, facts: Encoder) -> dict[str, Any]:
        """The base values; the class is made without its pooling head."""
        return {**super().shape_values(facts), "use_head": False}

    @classmethod
    def read_config(cls, folder: Path) -> Any:
        """Read the config as `Backbone` does. Also raises UserError for computed positions and for a pooling head."""
        config = super().read_config(folder)
        for name, other in (("is_native", "positions that are computed"), ("use_head", "a pooling head")):
            if getattr(config, name):
                raise UserError(
                    f"{folder / 'config.json'}: `{name}: true` is an AIMv2 with {other}, which family aimv2 does not "
                    "read; take weights of a fixed resolution without text, as apple/aimv2-large-patch14-224"
                )
        return config

    @classmethod
    def ffn(cls, config: Any) -> str:
        """Always `swiglu`."""
        return "swiglu"

    def forward_options(self, pixels: Tensor) -> dict[str, Any]:
        """None: `_fit_positions` interpolates the positions."""
        return {}

"""V-JEPA 2 on images: no class token; rotary positions over time, rows and columns; no predictor."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor
from transformers import VJEPA2PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.vjepa2.modeling_vjepa2 import VJEPA2Encoder

from mllm_eval.adapters.backbone import Backbone
from mllm_eval.adapters.base import FeatureMap
from mllm_eval.catalog.architecture import FORMS, ratio_of
from mllm_eval.errors import UserError

if TYPE_CHECKING:
    from mllm_eval.catalog import Encoder


class VJEPA2ImageEncoder(VJEPA2PreTrainedModel):
    """The encoder of `VJEPA2Model` for images. An image becomes two equal frames, which one patch spans in time."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.encoder = VJEPA2Encoder(config)
        self.post_init()

    def forward(self, pixel_values: Tensor) -> BaseModelOutput:
        """Normed patch tokens of square pixels [B, 3, H, W]."""
        # The class takes rows and columns from its config, so they are set to the actual size here.
        config: Any = self.config
        for layer in self.encoder.layer:
            attention: Any = layer.attention
            attention.grid_size = pixel_values.shape[-1] // config.patch_size
        output: BaseModelOutput = self.encoder(pixel_values[:, None])
        return output


class Family(Backbone):
    """`VJEPA2Model` without its predictor and without a classifier's pooler."""

    model_types = ("vjepa2",)
    class_name = "VJEPA2Model"
    blocks_at = "encoder.layer"
    norm_at = "encoder.layernorm"
    form = FORMS["vjepa2"]
    left_out = r"(.*\.)?(predictor|pooler|classifier)\..*"

    @classmethod
    def transformers_class(cls) -> Any:
        """`VJEPA2ImageEncoder`."""
        return VJEPA2ImageEncoder

    @classmethod
    def shape_values(cls, facts: Encoder) -> dict[str, Any]:
        """The class takes a ratio instead of a hidden width, and calls the native size `crop_size`."""
        shape = facts.architecture
        assert shape is not None
        return {
            "image_size": None,
            "crop_size": shape.native,
            "mlp_ratio": ratio_of(shape.hidden, facts.width),
            "tubelet_size": cls.form.frames,
            "qkv_bias": shape.qkv_bias is not False,
        }

    @classmethod
    def read_config(cls, folder: Path) -> Any:
        """Read the config as `Backbone` does. Also raises UserError if patches span another number of frames."""
        config = super().read_config(folder)
        if config.tubelet_size != cls.form.frames:
            raise UserError(
                f"{folder / 'config.json'}: `tubelet_size: {config.tubelet_size}`: family vjepa2 reads weights whose "
                f"patches span {cls.form.frames} frames"
            )
        return config

    @classmethod
    def hidden(cls, config: Any) -> int:
        """Hidden width of the feed-forward network."""
        return int(config.hidden_size * config.mlp_ratio)

    @classmethod
    def native(cls, config: Any) -> int:
        """Edge, in pixels, of the training images."""
        size: int = config.crop_size
        return size

    @classmethod
    def found_in(cls, config: Any) -> dict[str, Any]:
        """The base facts, and whether queries, keys and values have a bias."""
        return {**super().found_in(config), "qkv_bias": bool(config.qkv_bias)}

    def forward_options(self, pixels: Tensor) -> dict[str, Any]:
        """None: rotary positions fit every size."""
        return {}

    def forward(self, pixels: Tensor, layers: Sequence[int] = ()) -> list[FeatureMap]:
        """Compute features as in `EncoderModel`. Raises UserError if the pixels are not square."""
        rows, columns = self.cells(pixels.shape[-2], pixels.shape[-1])
        if rows != columns:
            raise UserError(f"encoder {self.facts.name}: family vjepa2 takes squares, not {tuple(pixels.shape[-2:])}")
        return super().forward(pixels, layers)

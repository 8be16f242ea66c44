"""SigLIP2 NaFlex. Its class takes sequences of patches with their grid shape; this family passes square images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import Siglip2VisionModel

from mllm_eval.catalog.architecture import FORMS

if TYPE_CHECKING:
    # mypy finds the file under this path; at run time it is part of mllm_eval.adapters.
    from adapters.siglip import Family as Siglip
    from mllm_eval.catalog import Encoder
else:
    from mllm_eval.adapters.siglip import Family as Siglip


class Siglip2ImageModel(Siglip2VisionModel):
    """`Siglip2VisionModel` that takes pixels. It cuts them into patches as the processor does, without masking any."""

    def forward(self, pixel_values: Tensor) -> Any:
        """Output of `Siglip2VisionModel` for pixels [B, 3, H, W]. Pixels beyond the last whole patch are ignored."""
        config: Any = self.config
        patch = int(config.patch_size)
        count, channels = pixel_values.shape[:2]
        rows, columns = (edge // patch for edge in pixel_values.shape[-2:])
        cut = pixel_values[..., : rows * patch, : columns * patch]
        cells = cut.reshape(count, channels, rows, patch, columns, patch).permute(0, 2, 4, 3, 5, 1)
        # The class reads the shapes as numbers, so they may stay on the CPU.
        shapes = torch.tensor([[rows, columns]] * count)
        patches = cells.reshape(count, rows * columns, patch * patch * channels)
        return super().forward(patches, None, shapes)


class Family(Siglip):
    """`Siglip2VisionModel`. `pooled` is its attention pooling of the normed tokens."""

    model_types = ("siglip2_vision_model", "siglip2")
    class_name = "Siglip2VisionModel"
    form = FORMS["siglip2_naflex"]

    @classmethod
    def transformers_class(cls) -> Any:
        """`Siglip2VisionModel` that takes pixels."""
        return Siglip2ImageModel

    @classmethod
    def shape_values(cls, facts: Encoder) -> dict[str, Any]:
        """The config has a number of positions instead of an image size."""
        shape = facts.architecture
        assert shape is not None and facts.patch is not None
        return {**super().shape_values(facts), "image_size": None, "num_patches": (shape.native // facts.patch) ** 2}

    @classmethod
    def native(cls, config: Any) -> int:
        """Edge, in pixels, of a square image with as many patches as there are positions."""
        return int(config.num_patches**0.5) * int(config.patch_size)

    def forward_options(self, pixels: Tensor) -> dict[str, Any]:
        """None: the class interpolates its positions itself."""
        return {}

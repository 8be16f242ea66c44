"""C-RADIO: three class tokens and seven registers, no final norm. The model normalises pixels itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mllm_eval.adapters.base import FeatureMap
from mllm_eval.adapters.original import RADIO
from mllm_eval.catalog.architecture import FORMS, ratio_of

if TYPE_CHECKING:
    # mypy finds the file under this path; at run time it is part of mllm_eval.adapters.
    from adapters.dinov2 import Family as Dinov2
    from mllm_eval.catalog import Encoder
else:
    from mllm_eval.adapters.dinov2 import Family as Dinov2

# Layer scales, which transformers' class has and the published files lack. They are set to 1.
SCALES = ".lambda1"


class Family(Dinov2):
    """`RadioModel`. CLS is the class token of the first teacher."""

    model_types = ("radio",)
    class_name = "RadioModel"
    form = FORMS["radio"]
    left_out = r"radio_model\.model\.patch_generator\.video_embedder\..*"
    layout = RADIO

    @classmethod
    def shape_values(cls, facts: Encoder) -> dict[str, Any]:
        """Positions are made for the largest image. Class tokens and registers have separate counts in the config."""
        shape = facts.architecture
        assert shape is not None
        return {
            "max_img_size": shape.native,
            "mlp_ratio": ratio_of(shape.hidden, facts.width),
            "num_cls_tokens": cls.form.prefix,
            "num_registers": cls.form.registers,
        }

    @classmethod
    def native(cls, config: Any) -> int:
        """Edge, in pixels, of the largest image that has positions."""
        size: int = config.max_img_size
        return size

    @classmethod
    def registers_in(cls, values: dict[str, Any], known: Any) -> int:
        """Registers, and the class tokens after the first, which are treated as registers."""
        default = {name: getattr(known, name) for name in ("num_cls_tokens", "num_registers")}
        said = {name: int(values.get(name, default[name])) for name in default}
        return said["num_cls_tokens"] - cls.form.prefix + said["num_registers"]

    @classmethod
    def original_tensors(cls, facts: Encoder, path: Path, wanted: dict[str, torch.Size]) -> dict[str, Tensor]:
        """Read the tensors as `Backbone` does, and set the layer scales, which the published files lack, to 1."""
        scales = {name: torch.ones(shape) for name, shape in wanted.items() if name.endswith(SCALES)}
        rest = {name: shape for name, shape in wanted.items() if name not in scales}
        return super().original_tensors(facts, path, rest) | scales

    def stock_patches(self, pixels: Tensor) -> Tensor:
        """The patches as in `Backbone`; the class accepts only whole patches, so the remainder is cut off."""
        return super().stock_patches(self.whole_patches(pixels))

    def forward(self, pixels: Tensor, layers: Sequence[int] = ()) -> list[FeatureMap]:
        """Compute features as in `EncoderModel`; the class accepts only whole patches, so the remainder is cut off."""
        return super().forward(self.whole_patches(pixels), layers)

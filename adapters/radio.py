"""C-RADIO: three class tokens and seven registers, no final norm; it normalises pixels by itself."""

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
    # Its name by its path; at run time the families are part of mllm_eval.adapters.
    from adapters.dinov2 import Family as Dinov2
    from mllm_eval.catalog import Encoder
else:
    from mllm_eval.adapters.dinov2 import Family as Dinov2

# What transformers' class has, and the published files, whose values these are, have not.
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
        """The positions are those of the largest image; class tokens and registers are counted apart."""
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
        """Edge in pixels of the largest image, for which there are positions."""
        size: int = config.max_img_size
        return size

    @classmethod
    def registers_in(cls, values: dict[str, Any], known: Any) -> int:
        """Class tokens beside the first count as what stands before the patches, as registers do."""
        default = {name: getattr(known, name) for name in ("num_cls_tokens", "num_registers")}
        said = {name: int(values.get(name, default[name])) for name in default}
        return said["num_cls_tokens"] - cls.form.prefix + said["num_registers"]

    @classmethod
    def original_tensors(cls, facts: Encoder, path: Path, wanted: dict[str, torch.Size]) -> dict[str, Tensor]:
        """As of every family; the layer scales, which the published files have not, are 1."""
        scales = {name: torch.ones(shape) for name, shape in wanted.items() if name.endswith(SCALES)}
        rest = {name: shape for name, shape in wanted.items() if name not in scales}
        return super().original_tensors(facts, path, rest) | scales

    def stock_patches(self, pixels: Tensor) -> Tensor:
        """As of every family; the class refuses a rest beyond the last whole patch."""
        return super().stock_patches(self.whole_patches(pixels))

    def forward(self, pixels: Tensor, layers: Sequence[int] = ()) -> list[FeatureMap]:
        """As the contract says; the class refuses a rest beyond the last whole patch."""
        return super().forward(self.whole_patches(pixels), layers)

"""What a frozen vision encoder is: weights, preprocessing, and facts that are checked, never trusted."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from mllm_eval.catalog.weights import Weights
from mllm_eval.config import Strict

Triple = tuple[float, float, float]


class Preprocessing(Strict):
    """How an image becomes `size` x `size` pixels: `pad` to a square with the mean colour and scale, `squash`
    without regard to its shape, or scale the short side and `crop` the centre; then (x - mean) / std."""

    mode: Literal["pad", "squash", "crop"]
    size: int = Field(gt=0)
    mean: Triple
    std: Triple
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"


class Facts(Strict):
    """What is known of the pretraining; for tables and plots, never for computing."""

    pretraining_data: str
    samples_seen: str
    supervision: Literal["self", "language", "none", "labels"]


class Encoder(Strict):
    """A frozen vision backbone with its preprocessing: one yaml in configs/encoders.

    Attributes:
        family: the adapter that loads it (`mllm_eval.adapters`).
        patch: edge of a patch in pixels; `width`: features per patch; `depth`: transformer blocks;
            `params`: weights of the backbone. All four are checked against the loaded weights.
        feature_layer: block whose output is used, -1 = last, -2 = last but one.
        norm: whether the final layer norm is applied to it.
        summary: what stands for the whole image in classic vision and alignment.
    """

    name: str
    family: str
    weights: Weights
    patch: int = Field(gt=0)
    width: int = Field(gt=0)
    depth: int = Field(gt=0)
    params: int = Field(gt=0)
    feature_layer: int = -1
    norm: bool = True
    summary: Literal["cls", "mean", "pooled"] = "cls"
    preprocessing: Preprocessing
    facts: Facts

    def identity(self) -> dict[str, Any]:
        """The fields that can change a result; `params` and `facts` describe and can't."""
        return self.model_dump(mode="json", exclude={"weights", "params", "facts"})

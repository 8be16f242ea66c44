"""Any vision transformer of timm, where timm is installed (`pip install mllm-eval[timm]`).

Weights are a folder as timm keeps them on the hub: `config.json` with the `architecture`'s name, and
`model.safetensors` or `pytorch_model.bin`. The model must have `blocks` and square patches.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from mllm_eval.adapters.base import EncoderModel, FeatureMap
from mllm_eval.adapters.original import fill
from mllm_eval.errors import UserError
from mllm_eval.storage import parse_json

if TYPE_CHECKING:
    from mllm_eval.catalog import Encoder

FILES = ("model.safetensors", "pytorch_model.bin")
# What a classifier has behind the features.
HEADS = r"(head|head_dist|fc)\..*"


def _timm() -> Any:
    try:
        import timm
    except ImportError:
        raise UserError("family timm needs the package timm; install it with `pip install mllm-eval[timm]`") from None
    return timm


class Family(EncoderModel):
    """A timm model made with `dynamic_img_size`, so that positions are interpolated at other sizes.

    options: arguments that its models are made with, beside those of their config.
    """

    options: ClassVar[dict[str, Any]] = {"dynamic_img_size": True}

    @classmethod
    def build(cls, facts: Encoder, config: dict[str, Any]) -> EncoderModel:
        """The architecture with weights yet to be loaded. Raises UserError without timm, or an unknown name."""
        name, timm = config["architecture"], _timm()
        if not timm.is_model(name):
            raise UserError(f"encoder {facts.name}: timm {timm.__version__} has no architecture {name!r}")
        options = {**(config.get("model_args") or {}), "num_classes": 0, **cls.options}
        try:
            model = timm.create_model(name, pretrained=False, **options)
        except TypeError as problem:
            raise UserError(f"encoder {facts.name}: {name} is no model of family {facts.family} ({problem})") from None
        if lacks := cls.missing(model):
            raise UserError(f"encoder {facts.name}: {name} is no model of family {facts.family} (it has no `{lacks}`)")
        model.mllm_eval_config = {"architecture": name, "model_args": config.get("model_args") or {}}
        return cls(facts, model)

    @classmethod
    def load(cls, facts: Encoder, place: Path, dtype: torch.dtype) -> EncoderModel:
        """The weights of a timm folder, all of them. Raises UserError for what is missing or does not fit."""
        path = place / "config.json"
        try:
            config = parse_json(path.read_text(), fields_once=False)
            config["architecture"]
        except (OSError, ValueError, KeyError, TypeError) as problem:
            raise UserError(f"{path}: cannot be read as a timm model's config ({problem})") from None
        weights = next((place / name for name in FILES if (place / name).is_file()), None)
        if weights is None:
            raise UserError(f"{place}: has none of {', '.join(FILES)}; fetch the weights again")
        encoder = cls.build(facts, config)
        fill(encoder, weights, HEADS)
        encoder.to(dtype)
        return encoder

    @classmethod
    def missing(cls, model: Any) -> str | None:
        """What a model of timm lacks that this family asks for."""
        return next((name for name in ("blocks", "patch_embed", "num_prefix_tokens") if not hasattr(model, name)), None)

    @property
    def prefix(self) -> int:
        """CLS and registers."""
        return int(self.model.num_prefix_tokens)

    @property
    def has_cls(self) -> bool:
        """Whether a class token is the first of them."""
        return getattr(self.model, "cls_token", None) is not None

    def config_values(self) -> dict[str, Any]:
        """The architecture's name and its arguments."""
        values: dict[str, Any] = self.model.mllm_eval_config
        return values

    def found(self) -> dict[str, Any]:
        """Patch, width and heads by the model."""
        attention = self.blocks()[0].get_submodule("attn")
        return {
            "patch": self.model.patch_embed.patch_size[0],
            "width": self.model.embed_dim,
            "heads": attention.num_heads,
        }

    def blocks(self) -> Sequence[nn.Module]:
        """The transformer blocks in order."""
        blocks: Sequence[nn.Module] = self.model.blocks
        return blocks

    def final_norm(self) -> nn.Module:
        """`norm`, or `fc_norm` in models that pool before they norm."""
        norm: nn.Module = self.model.norm
        if isinstance(norm, nn.Identity) and hasattr(self.model, "fc_norm"):
            norm = self.model.fc_norm
        return norm

    def pool(self, states: Tensor) -> Tensor:
        """The vector before the classifier [B, D]."""
        pooled: Tensor = self.model.forward_head(self.model.norm(states), pre_logits=True)
        return pooled

    def stock_patches(self, pixels: Tensor) -> Tensor:
        """What the class calls its features, without what stands before the patches [B, N, D]."""
        with torch.no_grad():
            states = self.tokens(self.model.forward_features(self.whole_patches(pixels)))
        return states[:, self.prefix :]

    def forward(self, pixels: Tensor, layers: Sequence[int] = ()) -> list[FeatureMap]:
        """As the contract says; pixels beyond the last whole patch, which timm refuses, are cut off first."""
        return super().forward(self.whole_patches(pixels), layers)

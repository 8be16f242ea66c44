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
from mllm_eval.adapters.original import fill, hold_format
from mllm_eval.catalog.families import PAGE
from mllm_eval.errors import UserError, exception_words, near
from mllm_eval.storage import parse_json

if TYPE_CHECKING:
    from mllm_eval.catalog import Encoder

FILES = ("model.safetensors", "pytorch_model.bin")
# What a classifier has behind the features.
HEADS = r"(head|head_dist|fc)\..*"


def _timm(who: str) -> Any:
    try:
        import timm
    except ModuleNotFoundError as problem:
        missing = (problem.name or "timm").partition(".")[0]
        raise UserError(
            f"{who}: family timm needs the package {missing}; install it with `pip install mllm-eval[timm]`"
        ) from None
    except Exception as problem:
        # A torchvision that was built for another torch fails while it is imported, with errors of many classes.
        raise UserError(
            f"{who}: timm cannot be imported ({exception_words(problem)}); install the torchvision that belongs "
            f"to torch {torch.__version__}"
        ) from None
    return timm


class Family(EncoderModel):
    """A timm model made with `dynamic_img_size`, so that positions are interpolated at other sizes.

    options: arguments that its models are made with, beside those of their config. needed: paths of what a model of
    the family has.
    """

    options: ClassVar[dict[str, Any]] = {"dynamic_img_size": True}
    needed: ClassVar[tuple[str, ...]] = ("blocks", "patch_embed")

    # ---- models ----
    @classmethod
    def read_config(cls, place: Path) -> dict[str, Any]:
        """The config of a timm folder. Raises UserError for one that names no architecture."""
        path = place / "config.json"
        try:
            config = parse_json(path.read_text(), fields_once=False)
            config["architecture"]
        except (OSError, ValueError, KeyError, TypeError) as problem:
            raise UserError(f"{path}: cannot be read as a timm model's config ({problem})") from None
        raw: dict[str, Any] = config
        return raw

    @classmethod
    def made(cls, who: str, config: dict[str, Any]) -> Any:
        """The timm model of a config, with weights yet to be loaded.

        Raises UserError, which begins with `who`, without timm, for a name that it does not know, with the nearest, and
        for a model of another family.
        """
        name, timm = config["architecture"], _timm(who)
        if not isinstance(name, str) or not timm.is_model(name):
            hint = near(str(name), timm.list_models())
            raise UserError(f"{who}: timm {timm.__version__} has no architecture {name!r}.{hint}")
        options = {**(config.get("model_args") or {}), "num_classes": 0, **cls.options}
        try:
            model = timm.create_model(name, pretrained=False, **options)
        except TypeError as problem:
            raise UserError(f"{who}: {name} is of another family ({problem}). {PAGE}") from None
        if lacks := next((path for path in cls.needed if not _has(model, path)), None):
            raise UserError(f"{who}: {name} is of another family; it has no `{lacks}`. {PAGE}")
        model.mllm_eval_config = {"architecture": name, "model_args": config.get("model_args") or {}}
        return model

    @classmethod
    def build(cls, facts: Encoder, config: dict[str, Any]) -> EncoderModel:
        """The architecture with weights yet to be loaded. Raises UserError as `made` does."""
        return cls(facts, cls.made(f"encoder {facts.name}", config))

    @classmethod
    def load(cls, facts: Encoder, place: Path, dtype: torch.dtype) -> EncoderModel:
        """The weights of a timm folder, all of them. Raises UserError for what is missing or does not fit."""
        hold_format(place)
        config = cls.read_config(place)
        weights = next((place / name for name in FILES if (place / name).is_file()), None)
        if weights is None:
            raise UserError(f"{place}: has none of {', '.join(FILES)}; fetch the weights again")
        encoder = cls.build(facts, config)
        fill(encoder, weights, HEADS)
        encoder.to(dtype)
        return encoder

    @classmethod
    def blocks_of(cls, model: Any) -> Sequence[nn.Module]:
        """The transformer blocks of a timm model, in order."""
        blocks: Sequence[nn.Module] = model.blocks
        return blocks

    @classmethod
    def norm_of(cls, model: Any) -> nn.Module:
        """`norm`, or `fc_norm` in models that pool before they norm; nn.Identity() where there is none."""
        norm: nn.Module = model.norm
        if isinstance(norm, nn.Identity) and hasattr(model, "fc_norm"):
            norm = model.fc_norm
        return norm

    @classmethod
    def prefix_of(cls, model: Any) -> int:
        """CLS and registers of a timm model."""
        return int(model.num_prefix_tokens)

    @classmethod
    def found_in(cls, model: Any) -> dict[str, Any]:
        """Patch, width and heads by a timm model."""
        return {
            "patch": model.patch_embed.patch_size[0],
            "width": model.embed_dim,
            "heads": cls.blocks_of(model)[0].get_submodule("attn").num_heads,
        }

    # ---- what the contract asks ----
    @property
    def prefix(self) -> int:
        """CLS and registers."""
        return self.prefix_of(self.model)

    @property
    def has_cls(self) -> bool:
        """Whether a class token is the first of them."""
        return getattr(self.model, "cls_token", None) is not None

    def config_values(self) -> dict[str, Any]:
        """The architecture's name and its arguments."""
        values: dict[str, Any] = self.model.mllm_eval_config
        return values

    def found(self) -> dict[str, Any]:
        """What the model says of itself."""
        return self.found_in(self.model)

    def blocks(self) -> Sequence[nn.Module]:
        """The transformer blocks in order."""
        return self.blocks_of(self.model)

    def final_norm(self) -> nn.Module:
        """The norm behind the last block."""
        return self.norm_of(self.model)

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


def _has(model: Any, path: str) -> bool:
    for name in path.split("."):
        model = getattr(model, name, None)
    return isinstance(model, nn.Module)

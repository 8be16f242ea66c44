"""Vision transformers of timm (`pip install mllm-eval[timm]`).

The weights are a folder as timm publishes it: `config.json`, which names the `architecture`, and `model.safetensors`
or `pytorch_model.bin`. The model must have `blocks` and square patches.
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
# Tensors of a classifier head, which the features do not need.
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
        # Importing a torchvision built for another torch version fails with errors of many classes.
        raise UserError(
            f"{who}: timm cannot be imported ({exception_words(problem)}); install the torchvision that belongs "
            f"to torch {torch.__version__}"
        ) from None
    return timm


class Family(EncoderModel):
    """A timm model made with `dynamic_img_size`, so that positions are interpolated at other sizes.

    options: arguments for `timm.create_model`, in addition to those of the config. needed: paths of submodules that a
    model must have to belong to the family.
    """

    options: ClassVar[dict[str, Any]] = {"dynamic_img_size": True}
    needed: ClassVar[tuple[str, ...]] = ("blocks", "patch_embed")

    # ---- models ----
    @classmethod
    def read_config(cls, place: Path) -> dict[str, Any]:
        """Read the config of a timm folder. Raises UserError if it names no architecture."""
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
        """Create the timm model of a config, without loading weights.

        who: the start of error messages. Raises UserError if timm is not installed, for a name that timm does not know
        (with the nearest ones), and for a model of another family.
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
        """Build the model without loading weights. Raises UserError as `made` does."""
        return cls(facts, cls.made(f"encoder {facts.name}", config))

    @classmethod
    def load(cls, facts: Encoder, place: Path, dtype: torch.dtype) -> EncoderModel:
        """Load all weights of a timm folder. Raises UserError for tensors that are missing or do not fit."""
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
        """The final norm: `norm`, or `fc_norm` in models that pool before it; `nn.Identity()` if there is none."""
        norm: nn.Module = model.norm
        if isinstance(norm, nn.Identity) and hasattr(model, "fc_norm"):
            norm = model.fc_norm
        return norm

    @classmethod
    def prefix_of(cls, model: Any) -> int:
        """Number of class tokens and registers before the patches of a timm model."""
        return int(model.num_prefix_tokens)

    @classmethod
    def found_in(cls, model: Any) -> dict[str, Any]:
        """Patch size, width and number of heads of a timm model."""
        return {
            "patch": model.patch_embed.patch_size[0],
            "width": model.embed_dim,
            "heads": cls.blocks_of(model)[0].get_submodule("attn").num_heads,
        }

    # ---- the interface of EncoderModel ----
    @property
    def prefix(self) -> int:
        """Number of class tokens and registers before the patches."""
        return self.prefix_of(self.model)

    @property
    def has_cls(self) -> bool:
        """Whether the first token is a class token."""
        return getattr(self.model, "cls_token", None) is not None

    def config_values(self) -> dict[str, Any]:
        """Name of the architecture, and its arguments."""
        values: dict[str, Any] = self.model.mllm_eval_config
        return values

    def found(self) -> dict[str, Any]:
        """Patch size, width and number of heads."""
        return self.found_in(self.model)

    def blocks(self) -> Sequence[nn.Module]:
        """The transformer blocks, in order."""
        return self.blocks_of(self.model)

    def final_norm(self) -> nn.Module:
        """The norm after the last block."""
        return self.norm_of(self.model)

    def pool(self, states: Tensor) -> Tensor:
        """The input [B, D] of timm's classifier, from states [B, N, D]."""
        pooled: Tensor = self.model.forward_head(self.model.norm(states), pre_logits=True)
        return pooled

    def stock_patches(self, pixels: Tensor) -> Tensor:
        """Patches [B, N, D] of timm's `forward_features`, without class tokens and registers."""
        with torch.no_grad():
            states = self.tokens(self.model.forward_features(self.whole_patches(pixels)))
        return states[:, self.prefix :]

    def forward(self, pixels: Tensor, layers: Sequence[int] = ()) -> list[FeatureMap]:
        """Compute features as in `EncoderModel`; timm accepts only whole patches, so the remainder is cut off."""
        return super().forward(self.whole_patches(pixels), layers)


def _has(model: Any, path: str) -> bool:
    for name in path.split("."):
        model = getattr(model, name, None)
    return isinstance(model, nn.Module)

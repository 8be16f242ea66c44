"""The one contract of the encoder side: images in, patch features and a summary out.

A family (one file beside this one) says which transformers class it wraps, how many tokens stand before the
patches, where its blocks and its final norm are, and how it pools. Everything else is here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from mllm_eval.adapters.preprocessing import to_pixels
from mllm_eval.errors import UserError

if TYPE_CHECKING:
    from mllm_eval.catalog import Encoder

# The zoo prints parameters to four digits, so a yaml may be that far from the weights.
PARAMS_TOLERANCE = 1e-3


class FeatureMap(NamedTuple):
    """What one layer of an encoder says about a batch: patches [B, h, w, D] and summary [B, D]."""

    patches: Tensor
    summary: Tensor


class EncoderModel(nn.Module):
    """A frozen vision backbone behind one interface. Made by `load_encoder_model` or, empty, by `build`."""

    model_types: ClassVar[tuple[str, ...]]
    prefix: ClassVar[int]

    def __init__(self, facts: Encoder, model: Any) -> None:
        super().__init__()
        self.facts = facts
        self.model = model
        self.requires_grad_(False)
        self.eval()
        self._check_facts()

    # ---- what a family says ----
    @classmethod
    def transformers_class(cls) -> Any:
        """The transformers model class that holds the weights."""
        raise NotImplementedError

    @classmethod
    def class_options(cls) -> dict[str, Any]:
        """Keyword arguments of that class beside its config."""
        return {}

    def blocks(self) -> nn.ModuleList:
        """The transformer blocks in order."""
        raise NotImplementedError

    def final_norm(self) -> nn.Module:
        """The norm behind the last block."""
        raise NotImplementedError

    def pool(self, states: Tensor) -> Tensor:
        """The family's own pooled vector [B, D] from un-normed states [B, N, D]; not every family has one."""
        raise NotImplementedError

    def forward_options(self, pixels: Tensor) -> dict[str, Any]:
        """Keyword arguments of the forward pass; position embeddings are interpolated at other sizes only."""
        native = self.model.config.image_size
        return {} if pixels.shape[-1] == native else {"interpolate_pos_encoding": True}

    # ---- what every family shares ----
    @classmethod
    def read_config(cls, folder: Path) -> Any:
        """The vision config in a hub-format folder. Raises UserError where it is of another architecture."""
        path = folder / "config.json"
        try:
            raw = json.loads(path.read_text())
        except (OSError, json.JSONDecodeError) as problem:
            raise UserError(f"{path}: cannot be read as a model's config ({problem})") from None
        found = raw.get("model_type")
        if found not in cls.model_types:
            raise UserError(
                f"{path}: the weights are of type {found!r}, this family reads "
                f"{', '.join(cls.model_types)}; correct `family` in the encoder's yaml"
            )
        return cls.config_from(raw.get("vision_config") or raw)

    @classmethod
    def config_from(cls, values: dict[str, Any]) -> Any:
        """The transformers config of this family from plain values."""
        config_class = cls.transformers_class().config_class
        drop = {"model_type", "architectures", "transformers_version", "torch_dtype", "dtype"}
        return config_class(**{key: value for key, value in values.items() if key not in drop})

    @classmethod
    def build(cls, facts: Encoder, config: dict[str, Any]) -> EncoderModel:
        """The architecture with weights yet to be loaded (a checkpoint's own loading fills them)."""
        model = cls.transformers_class()(cls.config_from(config), **cls.class_options())
        return cls(facts, model)

    @classmethod
    def load(cls, facts: Encoder, folder: Path, dtype: torch.dtype) -> EncoderModel:
        """The weights of a hub-format folder, all of them: a missing tensor is an error, not a random one."""
        config = cls.read_config(folder)
        try:
            model, report = cls.transformers_class().from_pretrained(
                folder,
                config=config,
                dtype=dtype,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
                **cls.class_options(),
            )
        except Exception as problem:
            first = str(problem).strip().splitlines()[0] if str(problem).strip() else type(problem).__name__
            raise UserError(f"{folder}: the weights cannot be read ({first}); fetch or copy them again") from problem
        missing = sorted(report["missing_keys"])
        if missing:
            raise UserError(
                f"{folder}: {len(missing)} tensors are missing, the first is {missing[0]}; "
                "the file is cut short or of another architecture"
            )
        return cls(facts, model)

    def _check_facts(self) -> None:
        config = self.model.config
        facts = self.facts
        found = {
            "patch": config.patch_size,
            "width": config.hidden_size,
            "depth": len(self.blocks()),
        }
        for name, value in found.items():
            said = getattr(facts, name)
            if said != value:
                raise UserError(
                    f"encoder {facts.name}: the yaml says {name}: {said}, the weights have {value}; correct the yaml"
                )
        params = sum(parameter.numel() for parameter in self.parameters())
        if abs(params - facts.params) > PARAMS_TOLERANCE * params:
            raise UserError(
                f"encoder {facts.name}: the yaml says params: {facts.params}, the weights have {params}; "
                "correct the yaml"
            )
        if facts.summary == "cls" and self.prefix == 0:
            raise UserError(
                f"encoder {facts.name}: family {facts.family} has no CLS token; set summary: mean or pooled"
            )
        if facts.summary == "pooled" and type(self).pool is EncoderModel.pool:
            raise UserError(f"encoder {facts.name}: family {facts.family} has no pooling of its own; set summary: cls")

    @property
    def width(self) -> int:
        """Dimensions of a feature."""
        return self.facts.width

    @property
    def grid(self) -> int:
        """Patches along one edge at the encoder's own resolution (384 / 14 is 27: the rest is cut off)."""
        return self.facts.preprocessing.size // self.facts.patch

    def preprocess(self, image: Image.Image) -> NDArray[np.float32]:
        """float32 [3, H, W] as the yaml's preprocessing makes it."""
        return to_pixels(image, self.facts.preprocessing)

    def _layer(self, layer: int) -> int:
        depth = len(self.blocks())
        index = layer + depth + 1 if layer < 0 else layer
        if not 1 <= index <= depth:
            raise UserError(
                f"encoder {self.facts.name}: there is no layer {layer}; use 1 to {depth}, or -1 for the last"
            )
        return index

    @torch.no_grad()
    def forward(self, pixels: Tensor, layers: Sequence[int] = ()) -> list[FeatureMap]:
        """Features of each asked layer (the yaml's `feature_layer` where none is named).

        pixels [B, 3, H, W] in the weights' dtype. Layers count blocks from 1, or from the end as -1, -2.
        The final norm is applied to the layer where the yaml says `norm: true`, whatever the class does:
        transformers' `last_hidden_state` is normed for Dinov2, ViT, SigLIP and I-JEPA, and not for CLIP.
        Raises UserError for a layer the encoder does not have.
        """
        wanted = [self._layer(layer) for layer in layers or (self.facts.feature_layer,)]
        states: dict[int, Tensor] = {}

        def keep(index: int) -> Any:
            def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
                states[index] = output[0] if isinstance(output, tuple) else output

            return hook

        handles = [self.blocks()[index - 1].register_forward_hook(keep(index)) for index in set(wanted)]
        try:
            self.model(pixels, **self.forward_options(pixels))
        finally:
            for handle in handles:
                handle.remove()
        height, width = (edge // self.facts.patch for edge in pixels.shape[-2:])
        return [self._feature_map(states[index], height, width) for index in wanted]

    def _feature_map(self, states: Tensor, height: int, width: int) -> FeatureMap:
        tokens = self.final_norm()(states) if self.facts.norm else states
        patches = tokens[:, self.prefix :].unflatten(1, (height, width))
        if self.facts.summary == "cls":
            summary = tokens[:, 0]
        elif self.facts.summary == "mean":
            summary = patches.flatten(1, 2).mean(1)
        else:
            summary = self.pool(states)
        return FeatureMap(patches, summary)

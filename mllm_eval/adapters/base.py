"""The one contract of the encoder side: images in, patch features and a summary out.

A family (one file beside this one, or one of somebody's own) says how its weights become a model, how many tokens
stand around the patches, where its blocks and its final norm are, and how it pools. Everything else is here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from mllm_eval.adapters.faults import own_code
from mllm_eval.adapters.preprocessing import to_pixels
from mllm_eval.errors import UserError

if TYPE_CHECKING:
    from mllm_eval.catalog import Encoder

# What every family says, beside `build` and `load`.
NEEDED = ("prefix", "config_values", "found", "blocks")


class FeatureMap(NamedTuple):
    """What one layer of an encoder says about a batch: patches [B, h, w, D] and summary [B, D]."""

    patches: Tensor
    summary: Tensor


class _Enough(Exception):
    """Ends a forward pass whose further layers nobody asked for."""


class EncoderModel(nn.Module):
    """A frozen vision backbone behind one interface. Made by `load_encoder_model` or, empty, by `build`."""

    # Whether cells see pixels of their neighbours, as those of a convolutional network do.
    overlaps: ClassVar[bool] = False
    # Whether what stands behind the blocks takes only what the last of them gives, whose width is its own.
    tapers: ClassVar[bool] = False

    def __init__(self, facts: Encoder, model: Any) -> None:
        super().__init__()
        self.facts = facts
        self.model = model
        self.requires_grad_(False)
        self.eval()
        self._check_facts()

    # ---- what a family says ----
    @classmethod
    def build(cls, facts: Encoder, config: dict[str, Any]) -> EncoderModel:
        """The architecture of `config_values`, weights yet to be loaded (a checkpoint's own loading fills them)."""
        raise NotImplementedError

    @classmethod
    def load(cls, facts: Encoder, place: Path, dtype: torch.dtype) -> EncoderModel:
        """The weights of a folder or file, all of them: a missing tensor is an error, not a random one."""
        raise NotImplementedError

    @classmethod
    def hold(cls, facts: Encoder, place: Path) -> None:
        """Raise UserError where a folder or file is not what the yaml says, as far as is seen without its weights."""

    @property
    def prefix(self) -> int:
        """Tokens before the patches."""
        raise NotImplementedError

    @property
    def behind(self) -> int:
        """Tokens behind the patches."""
        return 0

    @property
    def has_cls(self) -> bool:
        """Whether the first token stands for the whole image; a register does not."""
        return self.prefix > 0

    def config_values(self) -> dict[str, Any]:
        """What `build` needs to make the same architecture again, as plain data."""
        raise NotImplementedError

    def found(self) -> dict[str, Any]:
        """The weights' own `patch`, `width`, and as much as can be known of the yaml's `architecture`."""
        raise NotImplementedError

    def blocks(self) -> Sequence[nn.Module]:
        """The transformer blocks, or the stages of a network without any, in order; `depth` is their number."""
        raise NotImplementedError

    def tokens(self, output: Any) -> Tensor:
        """The tokens [B, prefix + N + behind, D] in what one of `blocks` gives.

        A map [B, D, h, w] becomes a row of them. A block that gives something else (channels last, a dict) wants this
        method in its family; another shape raises UserError.
        """
        states = output[0] if isinstance(output, tuple) else output
        if isinstance(states, Tensor) and states.ndim == 4:
            states = states.flatten(2).transpose(1, 2)
        if not (isinstance(states, Tensor) and states.ndim == 3):
            given = type(states).__name__ + (f" {list(states.shape)}" if isinstance(states, Tensor) else "")
            raise UserError(
                f"encoder {self.facts.name}: a block of family {self.facts.family} gives {given}, "
                "expected [B, N, D] or [B, D, h, w]; let `tokens` of its class say where the tokens are"
            )
        return states

    def cells(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the grid that pixels of this size give."""
        facts = self.facts
        if facts.patch is None or (facts.cells is not None and height == width == facts.preprocessing.size):
            return facts.grid, facts.grid
        return height // facts.patch, width // facts.patch

    def whole_patches(self, pixels: Tensor) -> Tensor:
        """Pixels [B, 3, H, W] without what is beyond the last whole patch, for a class that takes no rest."""
        patch = self.facts.patch or 1
        height, width = (edge // patch * patch for edge in pixels.shape[-2:])
        return pixels[..., :height, :width]

    def final_norm(self) -> nn.Module:
        """The norm behind the last block, for tokens [B, N, D]; `nn.Identity()` where there is none."""
        raise NotImplementedError

    def pool(self, states: Tensor) -> Tensor:
        """The family's own pooled vector [B, D] from un-normed states [B, N, D]; not every family has one."""
        raise NotImplementedError

    def stock_patches(self, pixels: Tensor) -> Tensor | None:
        """Patches [B, N, D] that the wrapped class itself calls its output, or None where it has no such thing."""
        return None

    def forward_options(self, pixels: Tensor) -> dict[str, Any]:
        """Keyword arguments of the forward pass for pixels [B, 3, H, W]."""
        return {}

    # ---- what every family shares ----
    @staticmethod
    def compare_facts(facts: Encoder, found: dict[str, Any]) -> None:
        """Raise UserError where the yaml says otherwise than the weights, of what both say."""
        said = {"patch": facts.patch, "width": facts.width, "depth": facts.depth}
        if facts.architecture is not None:
            said |= facts.architecture.model_dump(exclude_none=True)
        for name, value in said.items():
            if value is not None and name in found and found[name] != value:
                raise UserError(
                    f"encoder {facts.name}: the yaml says {name}: {value}, the weights have {found[name]}; "
                    "correct the yaml"
                )

    def _check_facts(self) -> None:
        facts = self.facts
        self.compare_facts(facts, {**self.found(), "depth": len(self.blocks())})
        params = sum(parameter.numel() for parameter in self.parameters())
        if params != facts.params:
            raise UserError(
                f"encoder {facts.name}: the yaml says params: {facts.params}, the weights have {params}; "
                "correct the yaml"
            )
        # A family of one's own may mean that its tokens are fit as they are.
        if facts.norm and facts.code is None and isinstance(self.final_norm(), nn.Identity):
            raise UserError(f"encoder {facts.name}: its class has no final norm; set norm: false")
        if facts.summary == "cls" and not self.has_cls:
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
        return self.facts.grid

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

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As `forward`; a family of one's own is held to the contract."""
        with own_code(type(self), self.facts, "forward"):
            maps = super().__call__(*args, **kwargs)
            if self.facts.code is not None:
                pixels = args[0] if args else kwargs["pixels"]
                for one in maps:
                    self._hold_shapes(one, pixels)
        return maps

    def _hold_shapes(self, features: FeatureMap, pixels: Tensor) -> None:
        count, size = len(pixels), self.cells(pixels.shape[-2], pixels.shape[-1])
        wanted = {"patches": (count, *size, self.width), "summary": (count, self.width)}
        for name, shape in wanted.items():
            given = tuple(getattr(features, name).shape)
            if given != shape:
                raise UserError(
                    f"encoder {self.facts.name}: family {self.facts.family} gives {name} {given}, the yaml says "
                    f"{shape} (images, rows and columns, width); correct `patch`, `cells` or `width`, or the layer"
                )

    @torch.no_grad()
    def forward(self, pixels: Tensor, layers: Sequence[int] = ()) -> list[FeatureMap]:
        """Features of each asked layer (the yaml's `feature_layer` where none is named).

        pixels [B, 3, H, W] in the weights' dtype. Layers count blocks from 1, or from the end as -1, -2.
        The final norm is applied to the layer where the yaml says `norm: true`, whatever the class does:
        transformers' `last_hidden_state` is normed for Dinov2, ViT, SigLIP and I-JEPA, and not for CLIP.
        No block is computed behind the last layer asked for.
        Raises UserError for a layer the encoder does not have.
        """
        wanted = [self._layer(layer) for layer in layers or (self.facts.feature_layer,)]
        states: dict[int, Tensor] = {}

        def keep(index: int) -> Any:
            def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
                states[index] = self.tokens(output)

            return hook

        handles = [self.blocks()[index - 1].register_forward_hook(keep(index)) for index in set(wanted)]
        try:
            with self._first_blocks(max(wanted)):
                self.model(pixels, **self.forward_options(pixels))
        finally:
            for handle in handles:
                handle.remove()
        height, width = self.cells(pixels.shape[-2], pixels.shape[-1])
        return [self._feature_map(states[index], height, width) for index in wanted]

    @contextmanager
    def _first_blocks(self, count: int) -> Iterator[None]:
        """Within, the wrapped model computes no block behind the first `count`."""
        blocks: Any = self.blocks()
        if count == len(blocks):
            yield
            return
        if self.facts.code is None and not self.tapers and isinstance(blocks, nn.ModuleList | nn.Sequential):
            # The others are taken out. An exception would leave the modules around them entered and never left, which
            # sharding that hooks into modules (ZeRO-3) takes amiss.
            behind = {name: blocks._modules.pop(name) for name in list(blocks._modules)[count:]}
            try:
                yield
            finally:
                blocks._modules.update(behind)
            return

        # A family of one's own may taper without saying so.
        def stop(*_: Any) -> None:
            raise _Enough

        handle = blocks[count - 1].register_forward_hook(stop)
        try:
            yield
        except _Enough:
            pass
        finally:
            handle.remove()

    def _feature_map(self, states: Tensor, height: int, width: int) -> FeatureMap:
        tokens = self.final_norm()(states) if self.facts.norm else states
        inner = tokens[:, self.prefix : tokens.shape[1] - self.behind]
        if inner.shape[1] != height * width:
            around = f" beside {self.prefix + self.behind} others" if self.prefix + self.behind else ""
            raise UserError(
                f"encoder {self.facts.name}: the layer has {inner.shape[1]} tokens of the image{around}, the yaml says "
                f"{height} x {width}; correct `patch` or `cells`, or what family {self.facts.family} says of its tokens"
            )
        patches = inner.unflatten(1, (height, width))
        if self.facts.summary == "cls":
            summary = tokens[:, 0]
        elif self.facts.summary == "mean":
            summary = patches.flatten(1, 2).mean(1)
        else:
            summary = self.pool(states)
        return FeatureMap(patches, summary)

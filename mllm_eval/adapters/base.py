"""The interface of all encoders: pixels in, patch features and one summary vector out.

A family implements it in one file, shipped or a user's own. It defines how weights become a model, how many tokens
come before and after the patches, where the blocks and the final norm are, and how it pools. The rest is here.
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

# What every family must define, in addition to `build` and `load`.
NEEDED = ("prefix", "config_values", "found", "blocks")


class FeatureMap(NamedTuple):
    """Output of one encoder layer for a batch: patches [B, h, w, D] and summary [B, D]."""

    patches: Tensor
    summary: Tensor


class _Enough(Exception):
    """Ends a forward pass after the last layer that was asked for."""


class EncoderModel(nn.Module):
    """A frozen vision backbone. `load_encoder_model` makes it with its weights, `build` without them."""

    # Whether a cell of the grid sees pixels of its neighbours, as in a convolutional network.
    overlaps: ClassVar[bool] = False
    # Whether the part after the blocks accepts only the last block's output, because each stage has its own width.
    tapers: ClassVar[bool] = False

    def __init__(self, facts: Encoder, model: Any) -> None:
        super().__init__()
        self.facts = facts
        self.model = model
        self.requires_grad_(False)
        self.eval()
        self._check_facts()

    # ---- what a family defines ----
    @classmethod
    def build(cls, facts: Encoder, config: dict[str, Any]) -> EncoderModel:
        """Build the architecture that `config_values` describes; the checkpoint that is loaded fills its weights."""
        raise NotImplementedError

    @classmethod
    def load(cls, facts: Encoder, place: Path, dtype: torch.dtype) -> EncoderModel:
        """Load all weights of a folder or file. A missing tensor is an error and is never initialised at random."""
        raise NotImplementedError

    @classmethod
    def hold(cls, facts: Encoder, place: Path) -> None:
        """Raise UserError if a folder or file differs from the yaml, without reading its weights."""

    @property
    def prefix(self) -> int:
        """Number of tokens before the patches."""
        raise NotImplementedError

    @property
    def behind(self) -> int:
        """Number of tokens after the patches."""
        return 0

    @property
    def has_cls(self) -> bool:
        """Whether the first token represents the whole image. A register does not."""
        return self.prefix > 0

    def config_values(self) -> dict[str, Any]:
        """Plain data from which `build` makes the same architecture again."""
        raise NotImplementedError

    def found(self) -> dict[str, Any]:
        """`patch` and `width` of the weights, and those fields of the yaml's `architecture` that they determine."""
        raise NotImplementedError

    def blocks(self) -> Sequence[nn.Module]:
        """The transformer blocks, in order, or the stages of a convolutional network. `depth` is their number."""
        raise NotImplementedError

    def tokens(self, output: Any) -> Tensor:
        """Return the tokens [B, prefix + N + behind, D] from the output of one of `blocks`.

        A map [B, D, h, w] is flattened to [B, h * w, D]. Any other output raises UserError: a family whose blocks
        return something else (channels last, a dict) must override this method.
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
        """Rows and columns of the patch grid for images of `height` x `width` pixels."""
        facts = self.facts
        if facts.patch is None or (facts.cells is not None and height == width == facts.preprocessing.size):
            return facts.grid, facts.grid
        return height // facts.patch, width // facts.patch

    def whole_patches(self, pixels: Tensor) -> Tensor:
        """Cut pixels [B, 3, H, W] to whole patches, for a class that accepts no remainder."""
        patch = self.facts.patch or 1
        height, width = (edge // patch * patch for edge in pixels.shape[-2:])
        return pixels[..., :height, :width]

    def final_norm(self) -> nn.Module:
        """The norm after the last block, for tokens [B, N, D]; `nn.Identity()` if there is none."""
        raise NotImplementedError

    def pool(self, states: Tensor) -> Tensor:
        """Pool states [B, N, D], before the final norm, to [B, D] as the family does. Not every family pools."""
        raise NotImplementedError

    def stock_patches(self, pixels: Tensor) -> Tensor | None:
        """Patches [B, N, D] as the wrapped class itself returns them, or None if it has no such output."""
        return None

    def forward_options(self, pixels: Tensor) -> dict[str, Any]:
        """Keyword arguments of the wrapped model's forward pass for pixels [B, 3, H, W]."""
        return {}

    # ---- what all families share ----
    @staticmethod
    def compare_facts(facts: Encoder, found: dict[str, Any]) -> None:
        """Raise UserError if the yaml and the weights disagree on a value that both state."""
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
        # A user's own family may have tokens that need no final norm.
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
        """Dimensions of a feature vector."""
        return self.facts.width

    @property
    def grid(self) -> int:
        """Patches or cells along one edge at the encoder's own resolution, rounded down (384 / 14 is 27)."""
        return self.facts.grid

    def preprocess(self, image: Image.Image) -> NDArray[np.float32]:
        """Preprocess one image as the yaml says, to float32 [3, size, size]."""
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
        """Call `forward`; the output of a user's own family is checked against the interface."""
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
        """Compute the features of each layer in `layers`, by default the yaml's `feature_layer`.

        pixels: [B, 3, H, W] in the weights' dtype. layers: block numbers from 1, or from the end as -1, -2.
        The final norm is applied to each layer if the yaml says `norm: true`, whatever the wrapped class does:
        transformers' `last_hidden_state` is normed for Dinov2, ViT, SigLIP and I-JEPA, and not for CLIP.
        Blocks after the last requested layer are not computed.
        Raises UserError for a layer that the encoder does not have.
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
        """Within the `with` block, the wrapped model computes only its first `count` blocks."""
        blocks: Any = self.blocks()
        if count == len(blocks):
            yield
            return
        if self.facts.code is None and not self.tapers and isinstance(blocks, nn.ModuleList | nn.Sequential):
            # The other blocks are removed for the pass. Ending it by an exception would skip the exit hooks of the
            # modules around them, which ZeRO-3 relies on.
            behind = {name: blocks._modules.pop(name) for name in list(blocks._modules)[count:]}
            try:
                yield
            finally:
                blocks._modules.update(behind)
            return

        # A user's own family may taper without declaring it, so its blocks stay in place.
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

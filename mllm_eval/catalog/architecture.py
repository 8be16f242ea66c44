"""The shape of a vision transformer and the number of its parameters, computed without torch and without weights."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from pydantic import Field

from mllm_eval.config import Strict


class Architecture(Strict):
    """The shape of a vision transformer beyond patch, width and depth.

    Attributes:
        heads: attention heads.
        ffn: `mlp` (two layers) or `swiglu` (three, one of them a gate).
        hidden: hidden width of the feed-forward network.
        native: edge, in pixels, of the images that the position embeddings were made for.
        activation, norm_eps: of the blocks; None for the default of the family's transformers class. A hub-format
            folder has both in its config, a checkpoint of the original code does not.
        qkv_bias: whether queries and values (and keys, if the family's have one) have a bias; None for the family's
            default.
        stem: number of weights that turn pixels into tokens, if that is not one projection per patch (convolutions).
    """

    heads: int = Field(gt=0)
    ffn: Literal["mlp", "swiglu"] = "mlp"
    hidden: int = Field(gt=0)
    native: int = Field(gt=0)
    activation: str | None = None
    norm_eps: float | None = None
    qkv_bias: bool | None = Field(default=None, exclude_if=lambda value: value is None)
    stem: int | None = Field(default=None, ge=0, exclude_if=lambda value: value is None)


@dataclass(frozen=True)
class Form:
    """Parts of a family's class outside patches, blocks and the final norm.

    Attributes:
        prefix: tokens before the patches that represent the whole image (CLS).
        registers: learned tokens without a position, between the prefix and the patches.
        behind: learned tokens without a position, after the patches.
        positions: each patch, and each token of the prefix, has a learned position; if False, they are computed.
        patch_bias: the patch projection has a bias.
        mask_token: the mask token of pretraining is kept.
        layer_scale: two learned scales per block.
        pre_norm: a norm before the first block.
        head: an attention head that pools, with an MLP.
        ffns: the kinds of feed-forward network that the class supports.
        qkv_biases: whether queries, keys and values can have a bias; the first value is the default.
        key_bias: keys have a bias if queries and values do.
        biases: the output projection of attention and the layers of the feed-forward network have a bias.
        norm_shifts: norms shift as well as scale (layer norms do, RMS norms do not).
        prefix_positions: tokens of the prefix have a learned position if patches have one.
        prefix_angles: rotary angles, half a head's width, are learned for the tokens of the prefix.
        final_norm: there is a norm after the last block.
        frames: video frames that one patch spans; an image is given as this many equal frames.
        key: set of weights that is read from an original file with several, unless the yaml names another.
    """

    prefix: int = 0
    registers: int = 0
    behind: int = 0
    positions: bool = True
    patch_bias: bool = True
    mask_token: bool = False
    layer_scale: bool = False
    pre_norm: bool = False
    head: bool = False
    ffns: tuple[str, ...] = ("mlp",)
    qkv_biases: tuple[bool, ...] = (True,)
    key_bias: bool = True
    biases: bool = True
    norm_shifts: bool = True
    prefix_positions: bool = True
    prefix_angles: bool = False
    final_norm: bool = True
    frames: int = 1
    key: str | None = None


DINO = Form(prefix=1, mask_token=True, layer_scale=True, ffns=("mlp", "swiglu"))
CLIP = Form(prefix=1, patch_bias=False, pre_norm=True)

FORMS = {
    "aimv2": Form(pre_norm=True, ffns=("swiglu",), qkv_biases=(False,), biases=False, norm_shifts=False),
    "clip": CLIP,
    "dinov2": DINO,
    "dinov2_with_registers": replace(DINO, registers=4),
    "dinov3": replace(DINO, registers=4, positions=False, qkv_biases=(True, False), key_bias=False),
    # The file has `encoder` and `target_encoder`, an exponential moving average of it. Cambrian-1's code and the
    # conversion on the hub both read `encoder`.
    "ijepa": Form(key="encoder"),
    "internvit": Form(prefix=1, layer_scale=True, qkv_biases=(True, False), final_norm=False),
    "metaclip2": CLIP,
    "mlcd": replace(CLIP, positions=False, prefix_angles=True),
    "openvision": replace(CLIP, pre_norm=False),
    # One class token per teacher, and registers. The class has layer scales, which are 1 in released weights.
    "radio": Form(
        prefix=3,
        registers=7,
        patch_bias=False,
        layer_scale=True,
        ffns=("mlp", "swiglu"),
        prefix_positions=False,
        final_norm=False,
    ),
    "siglip": Form(head=True),
    "siglip2_naflex": Form(head=True),
    # The register is a second class token, trained with other captions.
    "tipsv2": replace(DINO, registers=1),
    "vit": Form(prefix=1),
    "vjepa2": Form(positions=False, qkv_biases=(True, False), frames=2),
}


def ratio_of(hidden: int, width: int) -> float:
    """Ratio r for which int(width * r) is exactly `hidden`, as classes compute the width of a feed-forward network."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else math.nextafter(ratio, math.inf)


def parameters(form: Form, shape: Architecture, patch: int, width: int, depth: int, cells: int | None = None) -> int:
    """Count the parameters of the backbone exactly.

    A linear layer from a to b has a * b weights, and b more with a bias. A layer norm has 2 * width, an RMS norm
    width. There is one position per patch of a native image and per token of the prefix. The tests compare the count
    with transformers' classes. patch: edge in pixels. cells: edge of the native grid, if not native // patch.
    """

    def linear(inner: int, outer: int, bias: bool = True) -> int:
        return inner * outer + outer * bias

    norm = (1 + form.norm_shifts) * width
    mlp = linear(width, shape.hidden, form.biases) + linear(shape.hidden, width, form.biases)
    swiglu = mlp + linear(width, shape.hidden, form.biases)
    qkv = form.qkv_biases[0] if shape.qkv_bias is None else shape.qkv_bias
    attention = 2 * linear(width, width, qkv) + linear(width, width, qkv and form.key_bias)
    attention += linear(width, width, form.biases)
    positions = ((cells or shape.native // patch) ** 2 + form.prefix * form.prefix_positions) * form.positions
    learned = form.prefix + form.registers + form.behind + form.mask_token + positions
    patches = 3 * form.frames * patch * patch * width + form.patch_bias * width
    stem = patches if shape.stem is None else shape.stem
    stem += learned * width + form.prefix_angles * (width // shape.heads // 2)
    block = 2 * norm + attention + (swiglu if shape.ffn == "swiglu" else mlp)
    block += 2 * width * form.layer_scale
    # A learned query, its attention to the tokens, and an MLP with a norm.
    head = (width + 4 * linear(width, width) + norm + mlp) * form.head
    return stem + depth * block + norm * form.final_norm + norm * form.pre_norm + head

"""Reads checkpoints of the original code, and renames their tensors to those of the transformers classes.

Each layout below maps one code base completely, one row per kind of tensor. A row with several targets splits the
tensor into equal parts along its first dimension, because the original code stores query, key and value as one
tensor, and also the gate and up projections of a SwiGLU. The code bases:

- DINOV2: facebookresearch/webssl and facebookresearch/dinov2. Blocks may be in chunks, `blocks.<chunk>.<block>`,
  as Web-SSL released them; block numbers continue from chunk to chunk. A teacher with its heads (`teacher`,
  `backbone.`) is read too.
- VIT: facebookresearch/mae, facebookresearch/ijepa and timm's VisionTransformer, which share one layout.
- OPEN_CLIP: mlfoundations/open_clip and facebookresearch/MetaCLIP; only the image tower is read.
- INTERNVIT: OpenGVLab's InternViT, as in its repositories on the hub.
- RADIO: NVlabs/RADIO, as in its repositories on the hub; the teachers' heads are left out.

A tensor is refused if no row matches it and `left_out` does not either.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from mllm_eval.adapters.loading import hold_tensors, reshaped
from mllm_eval.errors import UserError

# Keys under which training scripts keep the weights, and name prefixes that wrapper modules add.
HOLDERS = ("teacher", "encoder", "target_encoder", "state_dict", "model", "ema")
WRAPPERS = re.compile(r"^(?:(?:module|_orig_mod|backbone)\.)+")

# File formats of encoders that hold no named tensors of one, with the reason.
OTHER_FORMATS = {
    ".onnx": "an ONNX file is a graph of operations, whose matrices have lost their names",
    ".gguf": "a GGUF file holds a language model",
    ".engine": "a TensorRT engine is compiled for one GPU",
    ".plan": "a TensorRT engine is compiled for one GPU",
    ".tflite": "a TensorFlow Lite file is a graph of operations",
}

# Files that hold named tensors.
TENSORS = (".safetensors", ".bin", ".pt", ".pth")

Rows = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Layout:
    """Mapping of tensor names: regular expressions of whole names to target names, and of names to leave out."""

    rows: Rows
    left_out: str


BLOCK = r"blocks\.(?:\d+\.)?(\d+)\."

DINOV2 = Layout(
    rows={
        r"(cls_token|mask_token|register_tokens)": (r"embeddings.\1",),
        r"pos_embed": ("embeddings.position_embeddings",),
        r"patch_embed\.proj\.(\w+)": (r"embeddings.patch_embeddings.projection.\1",),
        BLOCK + r"norm([12])\.(\w+)": (r"encoder.layer.\1.norm\2.\3",),
        BLOCK + r"attn\.qkv\.(\w+)": tuple(rf"encoder.layer.\1.attention.{part}_proj.\2" for part in "qkv"),
        BLOCK + r"attn\.proj\.(\w+)": (r"encoder.layer.\1.attention.o_proj.\2",),
        BLOCK + r"ls([12])\.gamma": (r"encoder.layer.\1.layer_scale\2.lambda1",),
        BLOCK + r"mlp\.w12\.(\w+)": (r"encoder.layer.\1.mlp.gate_proj.\2", r"encoder.layer.\1.mlp.up_proj.\2"),
        BLOCK + r"mlp\.w3\.(\w+)": (r"encoder.layer.\1.mlp.down_proj.\2",),
        BLOCK + r"mlp\.fc([12])\.(\w+)": (r"encoder.layer.\1.mlp.fc\2.\3",),
        r"norm\.(\w+)": (r"layernorm.\1",),
    },
    left_out=r"(?:dino_head|ibot_head|rasa_head|head)\..*",
)

VIT = Layout(
    rows={
        r"cls_token": ("embeddings.cls_token",),
        r"pos_embed": ("embeddings.position_embeddings",),
        r"patch_embed\.proj\.(\w+)": (r"embeddings.patch_embeddings.projection.\1",),
        BLOCK + r"norm1\.(\w+)": (r"layers.\1.layernorm_before.\2",),
        BLOCK + r"norm2\.(\w+)": (r"layers.\1.layernorm_after.\2",),
        BLOCK + r"attn\.qkv\.(\w+)": tuple(rf"layers.\1.attention.{part}_proj.\2" for part in "qkv"),
        BLOCK + r"attn\.proj\.(\w+)": (r"layers.\1.attention.o_proj.\2",),
        BLOCK + r"mlp\.fc([12])\.(\w+)": (r"layers.\1.mlp.fc\2.\3",),
        r"norm\.(\w+)": (r"layernorm.\1",),
    },
    left_out=r"mask_token|decoder.*|head\..*",
)

LAYER = r"visual\.transformer\.resblocks\.(\d+)\."

OPEN_CLIP = Layout(
    rows={
        r"visual\.class_embedding": ("embeddings.class_embedding",),
        r"visual\.positional_embedding": ("embeddings.position_embedding.weight",),
        r"visual\.conv1\.weight": ("embeddings.patch_embedding.weight",),
        # The typo is in transformers.
        r"visual\.ln_pre\.(\w+)": (r"pre_layrnorm.\1",),
        LAYER + r"ln_([12])\.(\w+)": (r"encoder.layers.\1.layer_norm\2.\3",),
        LAYER + r"attn\.in_proj_(\w+)": tuple(rf"encoder.layers.\1.self_attn.{part}_proj.\2" for part in "qkv"),
        LAYER + r"attn\.out_proj\.(\w+)": (r"encoder.layers.\1.self_attn.out_proj.\2",),
        LAYER + r"mlp\.c_fc\.(\w+)": (r"encoder.layers.\1.mlp.fc1.\2",),
        LAYER + r"mlp\.c_proj\.(\w+)": (r"encoder.layers.\1.mlp.fc2.\2",),
        r"visual\.ln_post\.(\w+)": (r"post_layernorm.\1",),
    },
    # The text tower, and the projections into the shared embedding space.
    left_out=r"(?!visual\.).*|visual\.proj",
)

INTERN = r"encoder\.layers\.(\d+)\."

INTERNVIT = Layout(
    rows={
        r"embeddings\.class_embedding": ("embeddings.cls_token",),
        r"embeddings\.position_embedding": ("embeddings.position_embeddings",),
        r"embeddings\.patch_embedding\.(\w+)": (r"embeddings.patch_embeddings.projection.\1",),
        INTERN + r"norm1\.(\w+)": (r"encoder.layer.\1.layernorm_before.\2",),
        INTERN + r"norm2\.(\w+)": (r"encoder.layer.\1.layernorm_after.\2",),
        INTERN + r"attn\.qkv\.(\w+)": tuple(rf"encoder.layer.\1.attention.{part}_proj.\2" for part in "qkv"),
        INTERN + r"attn\.proj\.(\w+)": (r"encoder.layer.\1.attention.projection_layer.\2",),
        INTERN + r"ls([12])": (r"encoder.layer.\1.lambda_\2",),
        INTERN + r"mlp\.fc([12])\.(\w+)": (r"encoder.layer.\1.mlp.fc\2.\3",),
    },
    left_out=r"(?!)",
)

CONDITIONER = r"(?:radio_model\.)?input_conditioner\."
RADIO_BLOCK = r"(?:radio_model\.)?model\." + BLOCK
PATCHES = r"(?:radio_model\.)?model\.patch_generator\."

RADIO = Layout(
    rows={
        CONDITIONER + r"(norm_\w+)": (r"input_conditioner.\1",),
        r"(?:radio_model\.)?summary_idxs": ("summary_idxs",),
        PATCHES + r"embedder\.weight": ("embeddings.patch_projection.weight",),
        PATCHES + r"pos_embed": ("embeddings.position_embedding",),
        PATCHES + r"cls_token\.token": ("embeddings.cls_register_token",),
        RADIO_BLOCK + r"norm([12])\.(\w+)": (r"encoder.layer.\1.norm\2.\3",),
        RADIO_BLOCK + r"attn\.qkv\.(\w+)": tuple(rf"encoder.layer.\1.attention.{part}_proj.\2" for part in "qkv"),
        RADIO_BLOCK + r"attn\.proj\.(\w+)": (r"encoder.layer.\1.attention.o_proj.\2",),
        RADIO_BLOCK + r"mlp\.fc([12])\.(\w+)": (r"encoder.layer.\1.mlp.fc\2.\3",),
    },
    left_out=r"(?:radio_model\.)?(?:model\.patch_generator\.video_embedder|adaptors|feature_normalizer)\..*",
)


def read_original(
    path: Path, layout: Layout, wanted: Mapping[str, torch.Size], key: str | None = None
) -> dict[str, Tensor]:
    """Read an original checkpoint, and return its tensors under the names, and in the shapes, of `wanted`.

    Only tensors are unpickled. The file is mapped into memory where its format allows this. `key` is as in
    `read_tensors`. Raises UserError for a file that cannot be read in this way, and for tensors that are missing, have
    another shape, or match no row of the layout.
    """
    renamed: dict[str, Tensor] = {}
    came_from: dict[str, str] = {}
    unknown = []
    for name, tensor in read_tensors(path, key).items():
        targets = _targets(name, layout)
        if targets is None:
            unknown.append(name)
            continue
        if targets and len(tensor) % len(targets):
            raise UserError(f"{path}: {name} has {len(tensor)} rows, which are not {len(targets)} equal parts")
        parts = tensor.chunk(len(targets)) if targets else ()
        renamed.update(zip(targets, parts, strict=True))
        came_from.update(dict.fromkeys(targets, name))
    unknown += dict.fromkeys(came_from[name] for name in renamed if name not in wanted)
    if unknown:
        raise UserError(
            f"{path}: {len(unknown)} tensors have no place in what the yaml describes, the first is {unknown[0]}; "
            "correct family, depth or architecture in the yaml"
        )
    missing = sorted(set(wanted) - set(renamed))
    if missing:
        raise UserError(
            f"{path}: {len(missing)} tensors are missing, the first is {missing[0]}; "
            "the file is cut short, or family, depth or architecture in the yaml are wrong"
        )
    for name, shape in wanted.items():
        if renamed[name].shape != shape:
            given = f"{came_from[name]} has shape {tuple(renamed[name].shape)}"
            raise UserError(
                f"{path}: {given} where the yaml describes {tuple(shape)}; "
                "correct patch, width or architecture in the yaml"
            )
    return renamed


def _targets(name: str, layout: Layout) -> tuple[str, ...] | None:
    # Empty tuple: left out on purpose. None: unknown name.
    for pattern, targets in layout.rows.items():
        if match := re.fullmatch(pattern, name):
            return tuple(match.expand(target) for target in targets)
    return () if re.fullmatch(layout.left_out, name) else None


M = TypeVar("M", bound=nn.Module)


def fill(encoder: M, path: Path, left_out: str = "") -> M:
    """Load a file's tensors into `encoder.model`. Names and shapes must match exactly.

    left_out: regular expression of whole names of tensors that are ignored if the model has no place for them.
    Raises UserError for a file that can't be read, and for tensors that are missing, have no place, or have another
    shape.
    """
    model: Any = encoder.model
    wanted, held = model.state_dict(), read_tensors(path)
    tensors = {name: value for name, value in held.items() if name in wanted or not re.fullmatch(left_out, name)}
    hold_tensors(path, reshaped(tensors, wanted), tensors.keys() - wanted, wanted.keys() - tensors)
    model.load_state_dict(tensors)
    return encoder


def read_tensors(path: Path, key: str | None = None) -> dict[str, Tensor]:
    """Read the named tensors of a checkpoint. Name prefixes of wrapper modules are removed.

    `key` selects one of several sets of weights in a file. It is ignored if the file holds only tensors.
    Raises UserError for a file that holds no tensors, none under `key`, or more than tensors and plain data.
    """
    held = _load(path)
    if key is not None and isinstance(held, Mapping):
        if key in held:
            held = held[key]
        elif others := [str(name) for name, value in held.items() if isinstance(value, Mapping)]:
            raise UserError(f"{path}: keeps no weights under {key!r}, but {', '.join(others)}; say `weights: key:`")
    while isinstance(held, Mapping) and (inside := next((held[key] for key in HOLDERS if key in held), None)):
        held = inside
    if not isinstance(held, Mapping):
        raise UserError(f"{path}: holds a {type(held).__name__}, not named tensors")
    tensors = {WRAPPERS.sub("", str(name)): value for name, value in held.items() if isinstance(value, Tensor)}
    if not tensors:
        raise UserError(f"{path}: holds no tensors under {', '.join(HOLDERS)} or at its top")
    return tensors


def hold_format(place: Path) -> None:
    """Raise UserError for a file, or a folder whose weight files are all, in a format without named tensors."""
    files = [place] if place.is_file() else sorted(path for path in place.rglob("*") if path.is_file())
    if any(path.suffix in TENSORS for path in files):
        return
    for path in files:
        if other := OTHER_FORMATS.get(path.suffix.lower()):
            raise UserError(f"{path}: {other}; give the model's folder in the hub's format, or the original checkpoint")


def _load(path: Path) -> Any:
    hold_format(path)
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except (SafetensorError, OSError) as problem:
            raise UserError(f"{path}: cannot be read as safetensors ({problem}); fetch it again") from None
    try:
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError as problem:
            # Files from before torch 1.6 cannot be mapped into memory.
            if "mmap" not in str(problem):
                raise
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"{path}: holds more than tensors and plain data, which this project does not unpickle; "
            "save its state dict alone, best as safetensors"
        ) from None
    except (RuntimeError, OSError, EOFError, ValueError) as problem:
        first = (str(problem).strip().splitlines() or [type(problem).__name__])[0]
        raise UserError(f"{path}: cannot be read as a torch checkpoint ({first}); fetch it again") from None

"""Families that a user might bring, as files of their own: a convolutional network, and two ViTs with registers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file

from mllm_eval.catalog import Encoder
from mllm_eval.catalog.families import module_of_family
from mllm_eval.config import load

CONVNET = '''\
"""A small convolutional network: a grid without patches, whose last row and column hang over the image."""

import json
from pathlib import Path

import torch
from torch import nn

from mllm_eval.adapters.base import EncoderModel
from mllm_eval.adapters.original import fill


class ConvNet(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.width = width
        channels = [3, width // 4, width // 2, width]
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, stride=2, padding=1), nn.BatchNorm2d(b), nn.GELU())
            for a, b in zip(channels, channels[1:])
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, pixels):
        for stage in self.stages:
            pixels = stage(pixels)
        return pixels


class Family(EncoderModel):
    prefix = 0

    @classmethod
    def build(cls, facts, config):
        return cls(facts, ConvNet(**config))

    @classmethod
    def load(cls, facts, place, dtype):
        encoder = cls.build(facts, json.loads((place / "config.json").read_text()))
        return fill(encoder, place / "model.safetensors").to(dtype)

    def config_values(self):
        return {"width": self.model.width}

    def found(self):
        return {"patch": 8, "width": self.model.width}

    def blocks(self):
        return self.model.stages

    def final_norm(self):
        return self.model.norm
'''

REGISTERS = '''\
"""DINOv2 with registers: a CLS token and four registers before the patches."""

from mllm_eval.adapters.dinov2 import Family as Dinov2
from mllm_eval.catalog.architecture import Form


class Family(Dinov2):
    model_types = ("dinov2_with_registers",)
    class_name = "Dinov2WithRegistersModel"
    form = Form(prefix=1, registers=4, mask_token=True, layer_scale=True, ffns=("mlp", "swiglu"))
    layout = None

    @classmethod
    def shape_values(cls, facts):
        return {**super().shape_values(facts), "num_register_tokens": 4}
'''

BEHIND = '''\
"""A ViT without CLS token whose registers stand behind the patches and have no position."""

import json

import torch
from torch import nn

from mllm_eval.adapters.base import EncoderModel
from mllm_eval.adapters.original import fill
from mllm_eval.catalog.architecture import Form


class ViT(nn.Module):
    def __init__(self, width, depth, heads, hidden, patch, cells, registers):
        super().__init__()
        self.config = dict(
            width=width, depth=depth, heads=heads, hidden=hidden, patch=patch, cells=cells, registers=registers
        )
        self.embed = nn.Conv2d(3, width, patch, stride=patch)
        self.positions = nn.Parameter(torch.randn(1, cells * cells, width))
        self.registers = nn.Parameter(torch.randn(1, registers, width))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, heads, hidden, 0.0, batch_first=True, norm_first=True)
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, pixels):
        patches = self.embed(pixels).flatten(2).transpose(1, 2) + self.positions
        states = torch.cat([patches, self.registers.expand(len(patches), -1, -1)], 1)
        for block in self.blocks:
            states = block(states)
        return states


class Family(EncoderModel):
    prefix = 0
    behind = 3
    form = Form(behind=3)

    @classmethod
    def build(cls, facts, config):
        return cls(facts, ViT(**config))

    @classmethod
    def load(cls, facts, place, dtype):
        encoder = cls.build(facts, json.loads((place / "config.json").read_text()))
        return fill(encoder, place / "model.safetensors").to(dtype)

    def config_values(self):
        return self.model.config

    def found(self):
        config = self.model.config
        return {**{key: config[key] for key in ("patch", "width", "heads", "hidden")}, "ffn": "mlp"}

    def blocks(self):
        return self.model.blocks

    def final_norm(self):
        return self.model.norm
'''

CODE = {"convnet": CONVNET, "registers": REGISTERS, "behind": BEHIND}
HALF = [0.5, 0.5, 0.5]
YAML: dict[str, dict[str, Any]] = {
    "convnet": {"cells": 4, "width": 32, "depth": 3, "params": 6208, "summary": "mean"},
    "registers": {"patch": 7, "width": 32, "depth": 2, "summary": "cls"},
    "behind": {"patch": 7, "width": 32, "depth": 2, "summary": "mean"},
}
SHAPE = {"heads": 2, "hidden": 64, "native": 28}


def write_family(home: Path, name: str, place: str = "adapters") -> Path:
    """The file of one of these families under a home that MLLM_EVAL_PATH names."""
    path = home / place / f"{name}.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(CODE[name])
    return path


def write_encoder(home: Path, kind: str, **changes: Any) -> Path:
    """Random weights of one of these families, and the yaml of an encoder `own-FAMILY`."""
    weights = home / "weights" / kind
    weights.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(5)
    if kind == "registers":
        import transformers as hf

        shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28, "patch_size": 7}
        config = hf.Dinov2WithRegistersConfig(**shape, mlp_ratio=2, num_register_tokens=4)
        hf.Dinov2WithRegistersModel(config).save_pretrained(weights)
    else:
        module = module_of_family(kind, None)
        values = {"width": 32} if kind == "convnet" else {"width": 32, "depth": 2, "patch": 7, "cells": 4}
        values |= {} if kind == "convnet" else {"heads": 2, "hidden": 64, "registers": 3}
        model = (module.ConvNet if kind == "convnet" else module.ViT)(**values)
        for tensor in model.state_dict().values():
            # Statistics of a normalisation are weights too; a fresh network's are 0 and 1.
            if tensor.is_floating_point():
                tensor.add_(torch.rand_like(tensor) * 0.3)
        save_file(model.state_dict(), weights / "model.safetensors")
        (weights / "config.json").write_text(json.dumps(values))
    facts: dict[str, Any] = {
        "name": f"own-{kind}",
        "family": kind,
        "weights": {"path": str(weights)},
        **({} if kind == "convnet" else {"architecture": SHAPE}),
        **YAML[kind],
        "preprocessing": {"mode": "pad", "size": 28, "mean": HALF, "std": HALF},
        "facts": {"pretraining_data": 2012, "samples_seen": 0, "supervision": "none"},
        **changes,
    }
    path = home / "configs/encoders" / f"own-{kind}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({key: value for key, value in facts.items() if value is not None}))
    return path


def own_encoder(home: Path, family: str, **changes: Any) -> Encoder:
    """The encoder of one of these families, its code and weights written before."""
    write_family(home, family)
    return load(write_encoder(home, family, **changes), Encoder)

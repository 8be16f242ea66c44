"""A LLaMA of sixteen tokens, its tokenizer, images by name and samples about them, for tests of generation."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tasks import answer
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from mllm_eval.answers import Answer, Journal
from mllm_eval.data.samples import ImageRef, Sample
from mllm_eval.errors import UserError

TEMPLATE = "llama_3_meta"
SPECIAL = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]


class Letters:
    """A tokenizer of twelve letters and a few special tokens."""

    eos_token_id = None

    def __call__(self, text: str | list[str], add_special_tokens: bool) -> dict[str, list[Any]]:
        assert not add_special_tokens
        return {"input_ids": self.ids(text) if isinstance(text, str) else [self.ids(part) for part in text]}

    def ids(self, text: str) -> list[int]:
        assert "<image>" not in text, "its token lies outside the model's vocabulary"
        parts = re.split("(" + "|".join(map(re.escape, SPECIAL)) + ")", text)
        return [token for part in parts for token in self._ids(part)]

    def _ids(self, part: str) -> list[int]:
        return [12 + SPECIAL.index(part)] if part in SPECIAL else [byte % 12 for byte in part.encode()]

    def decode(self, tokens: Sequence[int], skip_special_tokens: bool) -> str:
        return "".join(chr(97 + token) for token in tokens if token < 12)


class Tiny(nn.Module):
    """A random LLaMA: with 16 tokens to choose from, answers differ and many of them end early."""

    image_tokens = 5

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        config = LlamaConfig(
            vocab_size=16,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            initializer_range=0.6,
        )
        self.llm = LlamaForCausalLM(config).eval()
        self.llm.lm_head.weight.data[15] *= 2.0
        self.tokenizer = Letters()
        self.project = nn.Linear(6, 32 * 5)

    def embed(self, features: Tensor) -> Tensor:
        return self.project(features.flatten(1)[:, :6]).view(-1, 5, 32)


class Images:
    """Images by name, of which those named `broken` can't be decoded, and their features."""

    def __init__(self, broken: str = "") -> None:
        self.read: list[str] = []
        self.decoded: list[str] = []
        self.broken = broken

    def ref(self, name: str) -> ImageRef:
        return ImageRef(name, lambda: self.decode(name))

    def decode(self, name: str) -> Any:
        self.decoded.append(name)
        if name == self.broken:
            raise UserError(f"test.parquet row 3: {name} is no image")

    def __call__(self, images: list[ImageRef]) -> list[Tensor]:
        for image in images:
            image.load()
        self.read += [image.sha256 for image in images]
        seeds = [torch.Generator().manual_seed(sum(image.sha256.encode())) for image in images]
        return [torch.randn(1, 2, 3, generator=seed, dtype=torch.float64) for seed in seeds]


def a_sample(name: str, images: Sequence[str], prompt: str, world: Images | None = None) -> Sample:
    refs = tuple((world or Images()).ref(image) for image in images)
    return Sample("test", name, refs, prompt, "", "", "", {})


def mixed_samples(world: Images | None = None) -> list[Sample]:
    words = [
        "Is it red?",
        "How many?",
        "What does the sign say? Answer with a word.",
        "A",
        "Is <image> a word?",
    ]
    one = [a_sample(f"one{i}", [f"image{i % 4}"], f"{words[i % 5]} {i * 7}", world) for i in range(14)]
    none = [a_sample(f"none{i}", [], f"{words[i % 5]} {i}", world) for i in range(4)]
    many = [a_sample(f"many{i}", ["image1", f"other{i}"], words[i], world) for i in range(3)]
    return [*one[:7], *many, *none, *one[7:]]


def answers_of(model: Tiny | None, samples: list[Sample], path: Path, **settings: Any) -> list[Answer]:
    settings = {"max_new_tokens": 12, "features": Images(), **settings}
    return answer(model, samples, TEMPLATE, journal=Journal(path), **settings)

"""Models of real sizes with random weights, created on the device, and questions to ask them."""

from __future__ import annotations

import io
import random
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig

from mllm_eval.catalog import Encoder
from mllm_eval.data.samples import ImageRef, Sample
from mllm_eval.decoding import decode
from mllm_eval.model.export import as_llava
from mllm_eval.model.vlm import VLM, VLMConfig
from mllm_eval.storage import sha256_bytes

TEMPLATE, PATCH = "llama_3", 14
# Token ids of padding and of the image token.
PAD, IMAGE = 0, 4
FIRST_WORD = 8


@dataclass(frozen=True)
class LlamaSizes:
    """The sizes of a LLaMA: hidden size, blocks, heads, key-value heads, MLP size, vocabulary, and tied embeddings."""

    width: int
    depth: int
    heads: int
    key_heads: int
    hidden: int
    words: int
    tied: bool = False

    def with_words(self, words: int) -> LlamaSizes:
        """The same sizes with another vocabulary."""
        return replace(self, words=words)

    def config(self) -> LlamaConfig:
        return LlamaConfig(
            vocab_size=self.words,
            hidden_size=self.width,
            intermediate_size=self.hidden,
            num_hidden_layers=self.depth,
            num_attention_heads=self.heads,
            num_key_value_heads=self.key_heads,
            max_position_embeddings=8192,
            tie_word_embeddings=self.tied,
        )


@dataclass(frozen=True)
class ClipSizes:
    """The sizes of a CLIP vision tower: hidden size, blocks, heads, MLP size, and image size in pixels."""

    width: int
    depth: int
    heads: int
    hidden: int
    pixels: int

    def config(self) -> CLIPVisionConfig:
        return CLIPVisionConfig(
            hidden_size=self.width,
            num_hidden_layers=self.depth,
            num_attention_heads=self.heads,
            intermediate_size=self.hidden,
            image_size=self.pixels,
            patch_size=PATCH,
        )


LLAMA_3_8B = LlamaSizes(4096, 32, 32, 8, 14336, 128256)
LLAMA_32_3B = LlamaSizes(3072, 28, 24, 8, 8192, 128256, tied=True)
CLIP_L_336 = ClipSizes(1024, 24, 16, 4096, 336)
TINY_LLAMA = LlamaSizes(32, 2, 4, 2, 64, 300)
TINY_CLIP = ClipSizes(32, 2, 2, 64, 56)


@contextmanager
def placed(device: str, dtype: torch.dtype = torch.bfloat16) -> Iterator[None]:
    """A context in which tensors are created on `device`, and floats in `dtype`, so that no copy is made on the host.

    The model is not cast afterwards, since a cast would round its rotary frequencies too.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(before)


def encoder_facts(eye: ClipSizes) -> Encoder:
    """The encoder's configuration in the catalog's form; as in LLaVA and Cambrian it uses CLIP's penultimate layer."""
    with torch.device("meta"):
        params = sum(weight.numel() for weight in CLIPVisionModel(eye.config()).parameters())
    grey = (0.5, 0.5, 0.5)
    return Encoder.model_validate(
        {
            "name": "random",
            "family": "clip",
            "weights": {"path": "none"},
            "patch": PATCH,
            "width": eye.width,
            "depth": eye.depth,
            "params": params,
            "norm": False,
            "summary": "cls",
            "feature_layer": -2,
            "preprocessing": {"mode": "pad", "size": eye.pixels, "mean": grey, "std": grey},
            "facts": {"pretraining_data": "none", "samples_seen": "0", "supervision": "none"},
        }
    )


def random_model(eye: ClipSizes, mind: LlamaSizes, device: str, dtype: torch.dtype = torch.bfloat16) -> VLM:
    """A model with the same random weights at each call, whose answers depend on the question."""
    facts = encoder_facts(eye)
    config = VLMConfig(
        encoder=facts.model_dump(mode="json"),
        vision_config=eye.config().to_dict(),
        text_config=mind.config().to_dict(),
        tokens=facts.grid**2,
        template=TEMPLATE,
        image_token_id=IMAGE,
        dtype=str(dtype).removeprefix("torch."),
    )
    torch.manual_seed(0)
    with placed(device, dtype):
        model = VLM(config)
        with torch.no_grad():
            for weight in model.llm.parameters():
                if weight.dim() > 1:
                    # With smaller weights, different questions would get the same answer.
                    weight.normal_(0, 2 / weight.shape[1] ** 0.5)
    model.tokenizer = Words(mind.words)
    model.train(False)
    return model


def llava_of(model: VLM, device: str) -> Any:
    """transformers' LLaVA with the weights of a model; rotary frequencies, which `as_llava` rounds, are set anew."""
    with placed(device, model.dtype):
        llava = as_llava(model)
        words = llava.model.language_model
        words.rotary_emb = type(words.rotary_emb)(words.config)
    given = llava.generation_config
    # No end token, so that all answers have the same length and only speed is compared.
    given.eos_token_id, given.pad_token_id, given.suppress_tokens = None, PAD, None
    return llava.to(device).eval()


class Words:
    """A tokenizer with a token per word, which gives about as many as LLaMA-3's; no token ends an answer."""

    eos_token_id: int | None = None
    pad_token_id = PAD

    def __init__(self, vocabulary: int) -> None:
        self.vocabulary = vocabulary

    def __call__(self, text: str | list[str], add_special_tokens: bool) -> dict[str, list[Any]]:
        """The token ids of a text, or of each of several.

        Special tokens such as `<|eot_id|>` are split at punctuation, so that none is a single id, which would end an
        answer.
        """
        if isinstance(text, list):
            return {"input_ids": [self(part, add_special_tokens)["input_ids"] for part in text]}
        return {"input_ids": [self._id(part) for part in re.findall(r" ?\w+|[^\w]", text)]}

    def _id(self, part: str) -> int:
        return FIRST_WORD + zlib.crc32(part.encode()) % (self.vocabulary - FIRST_WORD)

    def decode(self, tokens: Sequence[int], skip_special_tokens: bool) -> str:
        """The token ids as text."""
        return " ".join(str(token) for token in tokens)


def questions(asked: Sequence[int], name: str) -> list[Sample]:
    """Questions of 6 to 20 words about images of 640 x 480 pixels, in random order; `asked` is the number per image."""
    chance = random.Random(0)
    words = [f"word{number}" for number in range(300)]
    order = [(image, question) for image, count in enumerate(asked) for question in range(count)]
    chance.shuffle(order)
    shown = [_picture(number) for number in range(len(asked))]
    suffix = "Answer the question using a single word or phrase."
    return [
        Sample(
            benchmark=name,
            id=f"{image}-{question}",
            images=(shown[image],),
            prompt=" ".join(chance.choices(words, k=chance.randint(6, 20))) + f"?\n{suffix}",
            target="",
            group="",
            cluster="",
            record={},
        )
        for image, question in order
    ]


def _picture(number: int) -> ImageRef:
    noise = np.random.default_rng(number).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    kept, size = io.BytesIO(), (640, 480)
    Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).save(kept, "JPEG", quality=90)
    data = kept.getvalue()
    return ImageRef(sha256_bytes(data), lambda: decode(data, "made picture"), lambda: size)

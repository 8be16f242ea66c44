"""What generation needs of a model, and the embedding of a prompt's pieces."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from mllm_eval.generate.batching import Piece


class Answerer(Protocol):
    """A vision-language model: `mllm_eval.model.VLM`, or what stands for it in a test."""

    llm: Any
    """A `LlamaForCausalLM`."""
    tokenizer: Any
    image_tokens: int
    """How many positions of a prompt an image takes."""

    def embed(self, features: Tensor) -> Tensor:
        """Features [B, h, w, D] as embeddings [B, image_tokens, H]."""
        ...


def embed_images(model: Answerer, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Embeddings [image_tokens, H] of features [h, w, D], both by the image's sha256."""
    by_grid: dict[tuple[int, ...], list[str]] = {}
    for name, grid in features.items():
        by_grid.setdefault(tuple(grid.shape), []).append(name)
    embedded: dict[str, Tensor] = {}
    for names in by_grid.values():
        embeddings = model.embed(torch.stack([features[name] for name in names]))
        embedded.update(zip(names, embeddings, strict=True))
    return embedded


def embed_pieces(model: Answerer, pieces: Sequence[Piece], images: Mapping[str, Tensor]) -> Tensor:
    """Embeddings [tokens, H] of text and images in their order."""
    words = model.llm.get_input_embeddings()
    return torch.cat(
        [
            images[piece] if isinstance(piece, str) else words(torch.tensor(piece, device=words.weight.device))
            for piece in pieces
        ]
    )


def end_tokens(tokenizer: Any, turn_end: str) -> frozenset[int]:
    """The tokens that end an answer: the tokenizer's own end of text and the mark that ends the turn."""
    mark: Collection[int] = tokenizer(turn_end, add_special_tokens=False)["input_ids"]
    ends = set(mark) if len(mark) == 1 else set()
    if tokenizer.eos_token_id is not None:
        ends.add(tokenizer.eos_token_id)
    return frozenset(ends)

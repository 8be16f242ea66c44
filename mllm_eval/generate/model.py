"""What generation needs of a model, and the embedding of a prompt's pieces."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from mllm_eval.catalog import Kept, TokenGrid
from mllm_eval.generate.batching import Piece


class Answerer(Protocol):
    """A vision-language model: `mllm_eval.model.VLM`, or what stands for it in a test."""

    llm: Any
    """A `LlamaForCausalLM`."""
    tokenizer: Any
    image_tokens: int
    """How many positions of a prompt an image takes, what is hidden of it counted. A model that hides parts of
    images has a `grid` (`TokenGrid`), which says what is shown."""

    def embed(self, features: Tensor) -> Tensor:
        """Features [B, h, w, D] as embeddings [B, image_tokens, H]."""
        ...


def grid_of(model: Answerer) -> TokenGrid | None:
    """The grid of a model that hides parts of images; None for one that shows all of all."""
    grid: TokenGrid | None = getattr(model, "grid", None)
    return grid if grid is not None and grid.hide else None


def embed_images(
    model: Answerer, features: Mapping[str, Tensor], kept: Mapping[str, Kept] | None = None
) -> dict[str, Tensor]:
    """Embeddings [positions, H] of features [h, w, D], both by the image's sha256.

    Of an image in `kept` these are the positions that are shown, of another all `image_tokens`.
    """
    by_grid: dict[tuple[int, ...], list[str]] = {}
    for name, grid in features.items():
        by_grid.setdefault(tuple(grid.shape), []).append(name)
    embedded: dict[str, Tensor] = {}
    for names in by_grid.values():
        embeddings = model.embed(torch.stack([features[name] for name in names]))
        embedded.update(zip(names, embeddings, strict=True))
    if kept and (shows := grid_of(model)) is not None:
        for name in embedded.keys() & kept.keys():
            shown = torch.tensor(shows.shown(kept[name]), device=embedded[name].device)
            embedded[name] = embedded[name][shown]
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

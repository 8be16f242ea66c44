"""The protocol of models that can generate, and the embedding of a prompt's pieces."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from mllm_eval.catalog import Kept, TokenGrid
from mllm_eval.generate.batching import Piece


class Answerer(Protocol):
    """A vision-language model: `mllm_eval.model.VLM`, or a substitute in tests."""

    llm: Any
    """A `LlamaForCausalLM`."""
    tokenizer: Any
    image_tokens: int
    """Positions that a whole image takes in a prompt. A model that hides the padding of images also has a `grid`
    (`TokenGrid`), which tells the part that is shown."""

    def embed(self, features: Tensor) -> Tensor:
        """Project patch features [B, h, w, D] to embeddings [B, image_tokens, H]."""
        ...


def grid_of(model: Answerer) -> TokenGrid | None:
    """Return the grid of a model that hides the padding of images; None for other models."""
    grid: TokenGrid | None = getattr(model, "grid", None)
    return grid if grid is not None and grid.hide else None


def embed_images(
    model: Answerer, features: Mapping[str, Tensor], kept: Mapping[str, Kept] | None = None
) -> dict[str, Tensor]:
    """Project patch features [h, w, D] to embeddings [positions, H]; both are keyed by the image's SHA-256.

    An image in `kept` has only the positions of its shown part; other images have `image_tokens` positions.
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
    """Return the embeddings [tokens, H] of a prompt's pieces in their order."""
    words = model.llm.get_input_embeddings()
    return torch.cat(
        [
            images[piece] if isinstance(piece, str) else words(torch.tensor(piece, device=words.weight.device))
            for piece in pieces
        ]
    )


def end_tokens(tokenizer: Any, turn_end: str) -> frozenset[int]:
    """Return the ids of the tokens that end an answer: the tokenizer's EOS token, and `turn_end` if it is one token."""
    mark: Collection[int] = tokenizer(turn_end, add_special_tokens=False)["input_ids"]
    ends = set(mark) if len(mark) == 1 else set()
    if tokenizer.eos_token_id is not None:
        ends.add(tokenizer.eos_token_id)
    return frozenset(ends)

"""The shapes of LLaMA, projector and encoder from which operations are counted."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from mllm_eval.catalog import LLM, Encoder, Recipe, Stage
from mllm_eval.catalog.gguf import is_gguf
from mllm_eval.catalog.llamaconfig import llama_config
from mllm_eval.errors import UserError, near


@dataclass(frozen=True)
class LlamaShape:
    """The shape of a LLaMA.

    attention: width of all query heads together. keys: width of all key heads together, equal to that of the values.
    hidden: width of the MLP. tied: whether input and output embeddings share weights.
    """

    params: int
    vocab: int
    width: int
    depth: int
    heads: int
    attention: int
    keys: int
    hidden: int
    tied: bool

    @property
    def block(self) -> int:
        """Number of parameters of a block's matrices."""
        return 2 * self.width * self.attention + 2 * self.width * self.keys + 3 * self.width * self.hidden

    @property
    def largest(self) -> int:
        """Number of parameters of the largest module that ZeRO-3 gathers whole: a block or the embedding."""
        return max(self.block, self.vocab * self.width)


@dataclass(frozen=True)
class ProjectorShape:
    """A projector of `layers` linear layers, from `width` to `out`, with GELU between them."""

    width: int
    out: int
    layers: int

    @property
    def params(self) -> int:
        """Number of parameters, biases included."""
        return (self.width + 1) * self.out + (self.layers - 1) * (self.out + 1) * self.out


@dataclass(frozen=True)
class EncoderShape:
    """The shape of a vision transformer at the resolution at which it is used.

    grid: patches per side. positions: parameters of position embeddings, which no product uses.
    patches: parameters of the patch embedding. read: number of blocks up to the one whose output is used.
    """

    params: int
    width: int
    depth: int
    grid: int
    positions: int
    patches: int
    read: int

    @property
    def tokens(self) -> int:
        """Number of patches of an image."""
        return self.grid * self.grid


def llama_shape(llm: LLM) -> LlamaShape:
    """Return the shape of an LLM from its yaml, or from its config if its weights are on this machine.

    Raises UserError where neither states it, and where the weights are of another architecture.
    """
    stated, folder = llm.architecture, llm.weights.folder()
    here = folder is not None and (folder.is_file() if is_gguf(folder) else (folder / "config.json").is_file())
    config = llama_config(llm, folder) if folder is not None and here else None
    if stated is not None:
        head = stated.head or llm.width // stated.heads
        heads, keys, hidden, tied = stated.heads, stated.kv_heads, stated.hidden, stated.tied
    else:
        if config is None:
            raise UserError(
                f"llm {llm.name}: its yaml has no `architecture` (heads, kv_heads, hidden) and its weights are not "
                "here; state it, or fetch them with `mllm-eval weights`"
            )
        try:
            heads, hidden = int(config["num_attention_heads"]), int(config["intermediate_size"])
            keys = int(config.get("num_key_value_heads") or heads)
            head = int(config.get("head_dim") or llm.width // heads)
            tied = bool(config.get("tie_word_embeddings", False))
        except (OSError, ValueError, KeyError, TypeError) as problem:
            raise UserError(f"{folder}: config.json is no LLaMA's ({problem!r})") from None
    return LlamaShape(
        params=llm.params,
        vocab=llm.vocab,
        width=llm.width,
        depth=llm.depth,
        heads=heads,
        attention=heads * head,
        keys=keys * head,
        hidden=hidden,
        tied=tied,
    )


def llama_by_size(llm: LLM) -> LlamaShape:
    """Return an approximate shape from an LLM's parameter count, width, depth and vocabulary alone.

    Keys are assumed as wide as queries, and all remaining parameters are counted as the MLP's. This leaves the count of
    operations right, because it depends only on the number of weights and on the width of attention.
    """
    words = llm.vocab * llm.width
    blocks = max(0, llm.params - 2 * words - llm.width) // llm.depth
    hidden = max(0, blocks - 4 * llm.width**2 - 2 * llm.width) // (3 * llm.width)
    return LlamaShape(llm.params, llm.vocab, llm.width, llm.depth, 1, llm.width, llm.width, hidden, tied=False)


def known_llama_shape(llm: LLM) -> LlamaShape:
    """Return `llama_shape`, or `llama_by_size` where neither yaml nor weights tell the shape."""
    try:
        return llama_shape(llm)
    except UserError:
        return llama_by_size(llm)


def added_parameters(stage: Stage, llm: LlamaShape) -> int | None:
    """Return the number of LoRA parameters that a stage trains in place of the LLM; None without LoRA."""
    return None if stage.lora is None else lora_parameters(llm, stage.lora.r, stage.lora.targets)


def matrices(llm: LlamaShape) -> dict[str, tuple[int, int]]:
    """Return (input width, output width) of each matrix of a block, by transformers' names."""
    return {
        "q_proj": (llm.width, llm.attention),
        "k_proj": (llm.width, llm.keys),
        "v_proj": (llm.width, llm.keys),
        "o_proj": (llm.attention, llm.width),
        "gate_proj": (llm.width, llm.hidden),
        "up_proj": (llm.width, llm.hidden),
        "down_proj": (llm.hidden, llm.width),
    }


def lora_parameters(llm: LlamaShape, rank: int, targets: str | Sequence[str]) -> int:
    """Return the number of parameters that LoRA (arXiv 2106.09685) adds: rank x (in + out) per matrix, in all blocks.

    `targets` are peft's names of the matrices, or `all-linear`. Raises UserError for an unknown name.
    """
    sizes = {name: sum(matrix) for name, matrix in matrices(llm).items()}
    chosen = list(sizes) if targets == "all-linear" else [targets] if isinstance(targets, str) else list(targets)
    # The output layer exists once per model; if it is tied to the embedding, it can have no adapter.
    once = {} if llm.tied else {"lm_head": llm.width + llm.vocab}
    for name in chosen:
        if name not in sizes and name not in once:
            known = [*sizes, *once]
            raise UserError(f"lora: a LLaMA has no matrix {name!r}.{near(name, known)} Known: {', '.join(known)}")
    return rank * sum(llm.depth * sizes.get(name, 0) + once.get(name, 0) for name in chosen)


def projector_shape(encoder: Encoder, recipe: Recipe, llm: LLM) -> ProjectorShape:
    """Return the shape of a recipe's projector. Raises UserError for an unknown type."""
    match = re.fullmatch(r"mlp([1-9])x_gelu", recipe.projector)
    if match is None and recipe.projector != "linear":
        raise UserError(f"recipe {recipe.name}: projector: {recipe.projector!r} is unknown; use mlp2x_gelu or linear")
    return ProjectorShape(encoder.width, llm.width, int(match.group(1)) if match else 1)


def encoder_shape(encoder: Encoder) -> EncoderShape:
    """Return the shape of an encoder at its preprocessing's image size.

    A network without patches is counted as if each of its weights were applied at every cell of its grid.
    """
    grid, patch, native = encoder.grid, encoder.patch or 0, encoder.native_grid
    layer, shape = encoder.feature_layer, encoder.architecture
    stem = shape.stem if shape else None
    return EncoderShape(
        params=encoder.params,
        width=encoder.width,
        depth=encoder.depth,
        grid=grid,
        positions=native * native * encoder.width if patch or shape else 0,
        patches=3 * patch**2 * encoder.width if stem is None else stem,
        read=layer if layer >= 0 else encoder.depth + 1 + layer,
    )


def square(tokens: int) -> int:
    """Return the edge length of a square grid of `tokens` tokens."""
    return math.isqrt(tokens)

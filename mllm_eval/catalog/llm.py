"""The yaml of a language model."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from mllm_eval.catalog.weights import Weights
from mllm_eval.config import Strict


class LlamaArchitecture(Strict):
    """The shape of a LLaMA beyond width, depth and vocabulary.

    Attributes:
        heads: attention heads; `kv_heads`: heads of keys and values (grouped-query attention).
        head: width of a head; None for width / heads.
        hidden: hidden width of the feed-forward network (SwiGLU: two layers in, one out).
        tied: the output layer shares the embedding's weights.
        rope_base, norm_eps: base of the rotary embeddings, and epsilon of the norms; checked if given.
    """

    heads: int = Field(gt=0)
    kv_heads: int = Field(gt=0)
    hidden: int = Field(gt=0)
    head: int | None = Field(default=None, gt=0)
    tied: bool = False
    rope_base: float | None = Field(default=None, gt=0, exclude_if=lambda value: value is None)
    norm_eps: float | None = Field(default=None, gt=0, exclude_if=lambda value: value is None)


class LLM(Strict):
    """A LLaMA-style language model: one yaml in configs/llms. The four sizes are checked against the weights.

    Attributes:
        gated: the hub hands out the weights only after a licence is accepted.
        architecture: the rest of its shape, so that a run can be planned before the weights are downloaded.
        quantisation: types of the matrices in a GGUF file, the most used first (`Q4_1+Q8_0`). It is part of the run's
            hash and is shown in its row.
        tokenizer: where the tokenizer is, if not beside the weights.
    """

    name: str
    weights: Weights
    params: int = Field(gt=0)
    width: int = Field(gt=0)
    depth: int = Field(gt=0)
    vocab: int = Field(gt=0)
    gated: bool = False
    # Newer fields are left out of dumps while unset, so that hashes of older runs do not change.
    architecture: LlamaArchitecture | None = Field(default=None, exclude_if=lambda value: value is None)
    quantisation: str | None = Field(default=None, exclude_if=lambda value: value is None)
    tokenizer: Weights | None = Field(default=None, exclude_if=lambda value: value is None)

    @model_validator(mode="after")
    def _params_are_the_architectures(self) -> LLM:
        if self.architecture is not None:
            computed = llama_parameters(self.architecture, self.vocab, self.width, self.depth)
            if computed != self.params:
                raise ValueError(f"params: {self.params} contradicts the architecture, which has {computed}")
        return self

    def identity(self) -> dict[str, Any]:
        """The fields that can change a result; the weights have their own digest."""
        return self.model_dump(mode="json", exclude={"weights", "params", "gated", "architecture", "tokenizer"})


def llama_parameters(shape: LlamaArchitecture, vocab: int, width: int, depth: int) -> int:
    """Count the parameters of a LLaMA exactly: no biases, two norms per block and a final norm."""
    head = shape.head or width // shape.heads
    attention = 2 * width * shape.heads * head + 2 * width * shape.kv_heads * head
    block = attention + 3 * width * shape.hidden + 2 * width
    return vocab * width * (1 if shape.tied else 2) + depth * block + width

"""What a language model is to this project."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from mllm_eval.catalog.weights import Weights
from mllm_eval.config import Strict


class LlamaArchitecture(Strict):
    """What width, depth and vocabulary leave open of a LLaMA.

    Attributes:
        heads: attention heads; `kv_heads`: those of keys and values (grouped-query attention).
        head: width of a head, width / heads unless given.
        hidden: width inside the feed-forward network (SwiGLU: two layers in, one out).
        tied: the output layer is the embedding of the words.
        rope_base: of the rotary embeddings; norm_eps: of the norms. Held against the weights where they are given.
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
        gated: the hub asks for a licence before it hands out the weights.
        architecture: what else its shape needs, to plan with it before its weights are here.
        quantisation: the types in which a GGUF file keeps the matrices, those of most numbers first (`Q4_1+Q8_0`).
            It is part of what a run is, and its row says it.
        tokenizer: where the tokenizer lies where it is not with the weights.
    """

    name: str
    weights: Weights
    params: int = Field(gt=0)
    width: int = Field(gt=0)
    depth: int = Field(gt=0)
    vocab: int = Field(gt=0)
    gated: bool = False
    # Unset fields that came later are not written, so that the hashes of older runs stay.
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
        """The fields that can change a result."""
        return self.model_dump(mode="json", exclude={"weights", "params", "gated", "architecture", "tokenizer"})


def llama_parameters(shape: LlamaArchitecture, vocab: int, width: int, depth: int) -> int:
    """Parameters of a LLaMA, to the last one: no biases, two norms a block and one behind them."""
    head = shape.head or width // shape.heads
    attention = 2 * width * shape.heads * head + 2 * width * shape.kv_heads * head
    block = attention + 3 * width * shape.hidden + 2 * width
    return vocab * width * (1 if shape.tied else 2) + depth * block + width

"""What a language model is to this project."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from mllm_eval.catalog.weights import Weights
from mllm_eval.config import Strict


class LLM(Strict):
    """A LLaMA-style language model: one yaml in configs/llms. The four sizes are checked against the weights.

    Attributes:
        gated: the hub asks for a licence before it hands out the weights.
    """

    name: str
    weights: Weights
    params: int = Field(gt=0)
    width: int = Field(gt=0)
    depth: int = Field(gt=0)
    vocab: int = Field(gt=0)
    gated: bool = False

    def identity(self) -> dict[str, Any]:
        """The fields that can change a result."""
        return self.model_dump(mode="json", exclude={"weights", "params", "gated"})

"""Count floating-point operations from the shapes in yaml files, without torch or weights.

Plans, the cost of runs and progress bars all use this count.
"""

from __future__ import annotations

from mllm_eval.operations.count import Asking, Lessons, QuestionCounts, asking, encoding, learning, passing, projecting
from mllm_eval.operations.shapes import (
    EncoderShape,
    LlamaShape,
    ProjectorShape,
    encoder_shape,
    known_llama_shape,
    llama_shape,
    lora_parameters,
    projector_shape,
)

__all__ = [
    "Asking",
    "EncoderShape",
    "Lessons",
    "LlamaShape",
    "ProjectorShape",
    "QuestionCounts",
    "asking",
    "encoder_shape",
    "encoding",
    "known_llama_shape",
    "learning",
    "llama_shape",
    "lora_parameters",
    "passing",
    "projecting",
    "projector_shape",
]

"""Render prompts and conversations from conversation templates, for training and evaluation alike."""

from __future__ import annotations

from mllm_eval.catalog.templates import TEMPLATES, Template
from mllm_eval.prompts.marks import marks_of, may_hold_marks, unmarked
from mllm_eval.prompts.reading import parts_of, placed_parts
from mllm_eval.prompts.strings import (
    IMAGE,
    PromptPart,
    conversation,
    conversation_parts,
    prompt_parts,
    render,
    template_named,
    user_turn,
)
from mllm_eval.prompts.tokens import NAMED, Chunk, PromptTokens

__all__ = [
    "IMAGE",
    "NAMED",
    "TEMPLATES",
    "Chunk",
    "PromptPart",
    "PromptTokens",
    "Template",
    "conversation",
    "conversation_parts",
    "marks_of",
    "may_hold_marks",
    "parts_of",
    "placed_parts",
    "prompt_parts",
    "render",
    "template_named",
    "unmarked",
    "user_turn",
]

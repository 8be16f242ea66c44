"""Prompts: conversation templates as data, and the one place that renders them."""

from __future__ import annotations

from mllm_eval.prompts.render import (
    IMAGE,
    Part,
    conversation,
    conversation_parts,
    prompt_parts,
    render,
    template_named,
    user_turn,
)
from mllm_eval.prompts.templates import TEMPLATES, Template
from mllm_eval.prompts.tokens import Chunk, PromptTokens

__all__ = [
    "IMAGE",
    "TEMPLATES",
    "Chunk",
    "Part",
    "PromptTokens",
    "Template",
    "conversation",
    "conversation_parts",
    "prompt_parts",
    "render",
    "template_named",
    "user_turn",
]

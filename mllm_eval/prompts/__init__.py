"""Prompts: conversation templates as data, and the one place that renders them."""

from __future__ import annotations

from mllm_eval.prompts.render import IMAGE, conversation, render, template_named, user_turn
from mllm_eval.prompts.templates import TEMPLATES, Template

__all__ = ["IMAGE", "TEMPLATES", "Template", "conversation", "render", "template_named", "user_turn"]

"""The model and its checkpoint. Importing this package registers them with transformers' Auto classes."""

from __future__ import annotations

from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageTextToText, AutoProcessor

from mllm_eval.model.checkpoint import (
    assemble,
    load_checkpoint,
    load_llm_model,
    load_tokenizer,
    make_processor,
    save_checkpoint,
)
from mllm_eval.model.processor import VLMImageProcessor, VLMProcessor
from mllm_eval.model.vlm import IGNORED, VLM, VLMConfig

AutoConfig.register(VLMConfig.model_type, VLMConfig, exist_ok=True)
AutoModelForImageTextToText.register(VLMConfig, VLM, exist_ok=True)
AutoImageProcessor.register(VLMConfig, image_processor_classes={"pil": VLMImageProcessor}, exist_ok=True)
AutoProcessor.register(VLMConfig, VLMProcessor, exist_ok=True)  # type: ignore[no-untyped-call]

__all__ = [
    "IGNORED",
    "VLM",
    "VLMConfig",
    "VLMImageProcessor",
    "VLMProcessor",
    "assemble",
    "load_checkpoint",
    "load_llm_model",
    "load_tokenizer",
    "make_processor",
    "save_checkpoint",
]

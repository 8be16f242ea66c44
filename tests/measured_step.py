"""A small LLaMA with a projector, their shapes as plans know them, and a step of training to be measured."""

from __future__ import annotations

from typing import Any

import torch

from mllm_eval.adapters.projector import Projector
from mllm_eval.catalog.llm import LlamaArchitecture, llama_parameters
from mllm_eval.model import IGNORED
from mllm_eval.model.targets import states_before_targets
from mllm_eval.operations.shapes import LlamaShape, ProjectorShape
from mllm_eval.plan.memory import MicroBatch

VOCAB, WIDTH, DEPTH, HEADS, KEYS, HIDDEN = 600, 96, 4, 6, 2, 224
ROWS, LENGTH, FEATURES, GRID = 3, 80, 48, 5
TOKENS = GRID * GRID


def llama(train: bool = True, dtype: torch.dtype = torch.float32) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=WIDTH, num_hidden_layers=DEPTH, num_attention_heads=HEADS,
        num_key_value_heads=KEYS, intermediate_size=HIDDEN,
    )  # fmt: skip
    return LlamaForCausalLM(config).to(dtype).requires_grad_(train)


def shape() -> LlamaShape:
    head = WIDTH // HEADS
    stated = LlamaArchitecture(heads=HEADS, kv_heads=KEYS, hidden=HIDDEN)
    params = llama_parameters(stated, VOCAB, WIDTH, DEPTH)
    return LlamaShape(params, VOCAB, WIDTH, DEPTH, HEADS, HEADS * head, KEYS * head, HIDDEN, tied=False)


def joint() -> ProjectorShape:
    return ProjectorShape(FEATURES, WIDTH, 2)


class Trained:
    """A step of training as this project's model does it: images in front, a loss over the last half of a row."""

    def __init__(self, train_llm: bool, dtype: torch.dtype = torch.float32) -> None:
        self.llm = llama(train_llm, dtype)
        self.projector = Projector(FEATURES, WIDTH, TOKENS).to(dtype)
        self.dtype = dtype
        self.targets = LENGTH - TOKENS
        self.features = torch.randn(ROWS, GRID, GRID, FEATURES, dtype=dtype)
        self.ids = torch.randint(0, VOCAB, (ROWS, LENGTH))
        self.labels = self.ids.clone()
        self.labels[:, :TOKENS] = IGNORED

    def parameters(self) -> list[torch.nn.Parameter]:
        return [*self.llm.parameters(), *self.projector.parameters()]

    def loss(self, whole: bool = False) -> torch.Tensor:
        """`whole`: the last layer everywhere, as operations are counted."""
        words = self.llm.get_input_embeddings()(self.ids)
        image = torch.zeros(ROWS, LENGTH, 1, dtype=torch.bool)
        image[:, :TOKENS] = True
        embedded = words.masked_scatter(image, self.projector(self.features).to(words.dtype))
        used = torch.nn.functional.pad(self.labels[:, 1:] != IGNORED, (0, 1))
        if whole:
            states_ = self.llm.model(inputs_embeds=embedded, use_cache=False).last_hidden_state[used]
        else:
            states_ = states_before_targets(self.llm.model, embedded, used)
        logits = self.llm.lm_head(states_)
        targets = self.labels[:, 1:][used[:, :-1]]
        return torch.nn.functional.cross_entropy(logits.float(), targets, reduction="sum")

    def batch(self) -> MicroBatch:
        return MicroBatch(ROWS * LENGTH, ROWS, TOKENS, ROWS * self.targets)

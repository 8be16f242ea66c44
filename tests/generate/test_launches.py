"""Kernels that a step of decoding launches on a GPU, against those of a plain LLaMA."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pretend_gpu import GPU, pretended, put, put_module
from pretend_training import llama_of
from transformers import DynamicCache

from mllm_eval.catalog import load_llm
from mllm_eval.generate import attention
from mllm_eval.generate.attention import SharedPrefixes, shared_prefix_attention, spans
from mllm_eval.generate.engine import answer_mask
from mllm_eval.generate.llamalayers import newest_states
from mllm_eval.model.internals import KeyValues

IMAGES, PREFIX, SUFFIX, STEPS = 16, 667, 96, 2


@pytest.fixture(scope="module")
def llama() -> Any:
    model = llama_of(load_llm("llama-3-8b-instruct")).to(torch.bfloat16).eval()
    model.model.rotary_emb.inv_freq = model.model.rotary_emb.inv_freq.float()
    put_module(model)
    return model


def of_engine(llama: Any, each: list[int]) -> int:
    """Launches of a step in which so many questions are asked of each image."""
    config = llama.config
    rows = sum(each)
    size = (config.num_key_value_heads, PREFIX, config.head_dim)
    with pretended(), torch.inference_mode(), shared_prefix_attention(llama):
        shared = [put(torch.empty(len(each), *size, dtype=torch.bfloat16, device="meta")) for _ in range(2)]
        prefixes = SharedPrefixes([shared[0]] * config.num_hidden_layers, [shared[1]] * config.num_hidden_layers)
        found = spans([image for image, count in enumerate(each) for _ in range(count)])
        padding = put(torch.arange(rows) % 5)
        cache = KeyValues(config.num_hidden_layers, SUFFIX + 16)
        for layer in cache.held:
            own = put(torch.empty(rows, *size[:1], SUFFIX, size[2], dtype=torch.bfloat16, device="meta"))
            layer.update(own, own)
        for _ in range(STEPS):
            GPU.begin()
            length = cache.get_seq_length()
            tokens = put(torch.zeros(rows, dtype=torch.long))
            hidden = newest_states(
                llama.model,
                llama.get_input_embeddings()(tokens)[:, None],
                (PREFIX + length - padding)[:, None],
                answer_mask(padding, length + 1, torch.bfloat16),
                cache,
                prefixes,
                found,
            )
            llama.lm_head(hidden).argmax(-1)
    return GPU.launched.total()


def of_plain(llama: Any) -> int:
    """Launches of a step of one row through transformers' LLaMA."""
    with pretended(), torch.inference_mode():
        cache = DynamicCache()
        for tokens in (PREFIX + SUFFIX, 1, 1):
            GPU.begin()
            ids = put(torch.zeros(1, tokens, dtype=torch.long))
            llama(ids, past_key_values=cache, logits_to_keep=1).logits[:, -1].argmax(-1)
    return GPU.launched.total()


@pytest.mark.slow
def test_a_step_of_decoding_launches_little_more_than_a_plain_one(llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # There are no values to compare.
    monkeypatch.setattr(attention, "fused_agrees", lambda *_: True)
    plain = of_plain(llama)
    two, uneven = of_engine(llama, [2] * IMAGES), of_engine(llama, [31, 12, 3, 1])
    # Each number of questions that images have, one after another, is attended to by itself.
    print(plain, two, uneven)
    assert two <= 1.3 * plain
    assert uneven <= 1.5 * plain

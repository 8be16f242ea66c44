"""A prompt and answer that an LLM has no positions for are a failed sample, and harm no other."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tasks import answer, pending
from tiny_models import make_encoder, make_llm, make_recipe

from mllm_eval.answers import Journal
from mllm_eval.data.samples import ImageRef, Sample
from mllm_eval.generate.positions import position_limit
from mllm_eval.model import assemble, load_llm_model, load_tokenizer


@pytest.mark.parametrize("engine", ["batched", "reference"])
def test_what_does_not_fit_fails_with_its_reason(tmp_path: Path, engine: str) -> None:
    encoder, llm = make_encoder(tmp_path / "e"), make_llm(tmp_path / "llm")
    recipe = make_recipe(tmp_path / "none", tmp_path)
    model = assemble(encoder, recipe, load_llm_model(llm), load_tokenizer(llm, recipe.template)).eval()
    grid = torch.randn(4, 4, 32)
    image = ImageRef("0" * 64, lambda: None)  # type: ignore[arg-type,return-value]
    samples = [Sample("b", name, (image,), text, "", "1", "1", {}) for name, text in (("1", "a?"), ("2", "a" * 600))]
    journal = Journal(tmp_path / "answers.jsonl")
    found = answer(model, samples, recipe.template, lambda refs: [grid] * len(refs), 4, journal, engine=engine)
    assert [one.state for one in found] == ["ok", "error"]
    assert found[1].reason.startswith("does not fit the LLM") and "512 positions" in found[1].reason
    assert pending(samples, recipe.template, journal) == []


def test_stretched_positions_count() -> None:
    from transformers import LlamaConfig

    assert position_limit(LlamaConfig(max_position_embeddings=100)) == 100
    rope = {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}
    assert position_limit(LlamaConfig(max_position_embeddings=100, rope_parameters=rope)) == 400

"""Prompts, byte for byte."""

from __future__ import annotations

import pytest

from mllm_eval.errors import UserError
from mllm_eval.prompts import TEMPLATES, conversation, render


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_conversation_starts_with_the_prompt(template: str) -> None:
    segments = conversation(template, [("<image>\nWhat?", "A dog"), ("And now?", "A cat")])
    text = "".join(part for part, _ in segments)
    assert text.startswith(render(template, "What?", 1))
    assert [target for _, target in segments] == [False, True, False, True]
    end = TEMPLATES[template].assistant_close
    assert all(part.endswith(end) for part, target in segments if target)


def test_meta_template_has_no_system_prompt_unless_given() -> None:
    assert render("llama_3_meta", "Hi", 0) == (
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    with_system = conversation("llama_3_meta", [("Hi", "Ho")], system="Be brief.")[0][0]
    assert "system<|end_header_id|>\n\nBe brief.<|eot_id|>" in with_system


def test_an_unknown_template_names_the_nearest() -> None:
    with pytest.raises(UserError, match="llama_3"):
        render("llama3", "Hi", 0)

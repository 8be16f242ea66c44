"""The template `chatml`: no system text of its own, and turns apart as SmolLM2's own chat template has them."""

from __future__ import annotations

from mllm_eval.prompts import conversation, parts_of, render


def test_turns_are_written_as_smollm2_reads_them() -> None:
    assert render("chatml", "Hi", 1) == "<|im_start|>user\n<image>\nHi<|im_end|>\n<|im_start|>assistant\n"
    parts = conversation("chatml", [("A", "b"), ("C", "d")])
    assert "".join(text for text, _ in parts) == (
        "<|im_start|>user\nA<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n"
        "<|im_start|>user\nC<|im_end|>\n<|im_start|>assistant\nd<|im_end|>"
    )
    # The mark that ends an answer is learnt, the line break before the next turn is not.
    assert [text for text, target in parts if target] == ["b<|im_end|>", "d<|im_end|>"]
    assert conversation("chatml", [("A", "b")], "Be brief.")[0][0].startswith(
        "<|im_start|>system\nBe brief.<|im_end|>\n"
    )


def test_a_rendered_conversation_is_read_back_as_its_parts() -> None:
    text = "".join(text for text, _ in conversation("chatml", [("<image>\nA", "b"), ("C <|im_end|>", "d")]))
    parts = parts_of("chatml", text)
    assert "".join(part.text for part in parts) == text
    assert [part.text for part in parts if not part.own] == ["\nA", "b", "C <|im_end|>", "d"]
    assert [part.image for part in parts].count(True) == 1

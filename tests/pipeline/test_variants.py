"""Variants of a benchmark: which are asked, whose answers they read, and what is not generated twice."""

from __future__ import annotations

from pathlib import Path

import pytest
from tasks import key_of, shared_answers

from mllm_eval.answers import Answer, Journal
from mllm_eval.catalog import load_benchmark
from mllm_eval.catalog.benchmark import answers_variant
from mllm_eval.catalog.variant import DEFAULT, VariantKey
from mllm_eval.data.prompts import read_record
from mllm_eval.data.samples import ImageRef, Sample
from mllm_eval.errors import UserError
from mllm_eval.pipeline.asked import asked_variants


def a_sample(name: str, prompt: str, image: str = "f" * 64) -> Sample:
    images = (ImageRef(image, lambda: None),) if image else ()  # type: ignore[arg-type, return-value]
    return Sample("b", name, images, prompt, "", name, name, {})


def test_a_variant_is_asked_of_the_benchmarks_that_have_it() -> None:
    asked = [load_benchmark(name) for name in ("mmvp", "textvqa", "gqa")]
    assert asked_variants(asked, ["blind", "single"]) == {
        "mmvp": ["default", "blind", "single"],
        "textvqa": ["default", "blind"],
        "gqa": ["default", "blind"],
    }
    assert asked_variants(asked, ["all"]) == {
        "mmvp": ["default", "single", "corrected_labels"],
        "textvqa": ["default", "no_ocr_tokens"],
        "gqa": ["default"],
    }
    with pytest.raises(UserError, match=r"'singel'\. Did you mean 'single'"):
        asked_variants(asked, ["singel"])


def test_answers_are_shared_where_prompt_and_image_are_the_same(tmp_path: Path) -> None:
    asked = [a_sample("1", "Which?"), a_sample("2", "How many?"), a_sample("3", "Where?"), a_sample("4", "Who?")]
    journal = Journal(tmp_path / "b.jsonl")
    journal.append(
        [
            Answer("1", *key_of(asked[0], "llama_3"), "red", 9, 2),
            Answer("2", *key_of(asked[1], "llama_3"), "", 9, 0, "error", "broken image"),
            Answer("3", *key_of(asked[2], "vicuna_v1"), "here", 9, 2),
            Answer("4", *key_of(asked[3], "llama_3"), "she", 9, 2),
        ]
    )
    variant = [a_sample("one", "Which?"), *asked[1:3], a_sample("4", "Who?", ""), a_sample("5", "Who?", "e" * 64)]
    found = shared_answers(variant, "llama_3", [journal])
    assert [(one.id, one.text) for one in found] == [("one", "red")]
    assert found[0].prompt == key_of(variant[0], "llama_3")[0]


@pytest.mark.parametrize(
    ("name", "record", "ends"),
    [
        ("mme", {"question": "Dog?"}, "Please answer the question using a single word or phrase."),
        (
            "scienceqa",
            {"question": "Q?", "choices": ["x", "y"]},
            "Answer with the option's letter from the given choices directly.",
        ),
        ("realworldqa", {"question": "Q?"}, "Answer the question using a single word or phrase."),
        (
            "mathvista",
            {"query": "Q?", "question_type": "free_form"},
            "First show your reasoning process and then give the final answer.",
        ),
    ],
)
def test_prompts_of_the_papers_table(name: str, record: dict[str, object], ends: str) -> None:
    assert read_record(load_benchmark(name), record, "here", VariantKey("paper_prompt")).prompt.endswith(f"\n{ends}")
    assert not read_record(load_benchmark(name), record, "here").prompt.endswith(f"\n{ends}")


def test_the_papers_table_asks_mmmu_as_its_code_does() -> None:
    assert answers_variant(load_benchmark("mmmu"), VariantKey("paper_prompt"), "hub") == DEFAULT

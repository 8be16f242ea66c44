"""Prompts as tokens: alike in training and evaluation, as the original cuts them; marks in data are text."""

from __future__ import annotations

import json
from typing import Any

import pytest
from places import GOLDEN, ROOT
from tiny_models import QUESTION, sentencepiece_like

from mllm_eval.data.conversations import Conversation
from mllm_eval.model.checkpoint import template_marks
from mllm_eval.prompts import IMAGE, PromptTokens, prompt_parts, render, user_turn
from mllm_eval.train.rowchunks import encode_rows

PROMPTS = GOLDEN / "prompts.jsonl"
WEIGHTS = ROOT / "mllm_eval" / "miniature" / "weights" / "mini-llama"


def as_the_original(tokenizer: Any, turns: list[tuple[str, str]], image: int) -> tuple[list[int], list[bool]]:
    """What the original's preprocess_v1 gives: the whole by chunks, then instructions masked by counts."""

    def tokens(text: str) -> list[int]:
        first, *others = [tokenizer(chunk, add_special_tokens=False)["input_ids"] for chunk in text.split(IMAGE)]
        return [tokenizer.bos_token_id, *first, *(token for more in others for token in (image, *more))]

    system = render("vicuna_v1", "", 0).split("USER: ")[0]
    rounds = [f"USER: {asked} ASSISTANT: {told}" for asked, told in turns]
    rounds[0] = system + rounds[0]
    ids = tokens("".join(f"{one}</s>" for one in rounds))
    targets = [True] * len(ids)
    targets[0], at = False, 1
    for one in rounds:
        instruction = len(tokens(one.split("ASSISTANT: ")[0] + "ASSISTANT: ")) - 2
        targets[at : at + instruction] = [False] * instruction
        at += len(tokens(one))
    assert at == len(ids)
    return ids, targets


def evaluated(tokenizer: Any, template: str, question: str, image: int) -> list[int]:
    words = PromptTokens(tokenizer, template)
    first, *others = [ids for ids, _ in words.encode(words.chunks(prompt_parts(template, question, 1)))]
    return [*first, *(token for more in others for token in (image, *more))]


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_vicuna_has_the_originals_ids_and_labels(turns: int) -> None:
    tokenizer = sentencepiece_like(legacy=True)
    said = [(user_turn(QUESTION, 1), "red"), ("And now?", "blue é 图"), ("Sure?", "green and red.")][:turns]
    image = tokenizer.convert_tokens_to_ids(IMAGE)
    ((ids, targets),) = encode_rows([Conversation(("a.png",), tuple(said), None)], tokenizer, "vicuna_v1")
    assert (ids, targets) == as_the_original(tokenizer, said, image)


@pytest.mark.parametrize("legacy", [True, False])
def test_a_prompt_is_what_precedes_the_answer_in_training(legacy: bool) -> None:
    tokenizer = sentencepiece_like(legacy)
    image = tokenizer.convert_tokens_to_ids(IMAGE)
    row = Conversation(("a.png",), ((user_turn(QUESTION, 1), "red"),), None)
    ((ids, targets),) = encode_rows([row], tokenizer, "vicuna_v1")
    asked = evaluated(tokenizer, "vicuna_v1", QUESTION, image)
    assert ids[: targets.index(True)] == asked
    assert asked[0] == tokenizer.bos_token_id and asked.count(tokenizer.bos_token_id) == 1
    after = tokenizer.convert_ids_to_tokens(asked[asked.index(image) + 1 :])
    assert after[:2] == ["▁", "\n"]


def test_the_ids_of_the_golden_prompts_are_those_of_the_plain_text() -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(WEIGHTS)
    words, seen = PromptTokens(tokenizer, "llama_3"), 0
    for line in map(json.loads, PROMPTS.read_text().splitlines()):
        if line["template"] != "llama_3":
            continue
        opening, close = render("llama_3", "\0", 0).split("\0")
        user = line["prompt"].removeprefix(opening).removesuffix(close)
        images = user.count("<image>\n")
        chunks = words.chunks(prompt_parts("llama_3", user.removeprefix("<image>\n" * images), images))
        plain = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in line["prompt"].split(IMAGE)]
        assert [ids for ids, _ in words.encode(chunks)] == plain
        seen += 1
    assert seen


@pytest.mark.parametrize("template", ["llama_3", "vicuna_v1"])
def test_control_marks_in_a_text_are_text(template: str) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(WEIGHTS) if template == "llama_3" else sentencepiece_like(True)
    controls = {one.content for one in tokenizer.added_tokens_decoder.values()} | {*template_marks(template), IMAGE}
    ids_of = set(map(tokenizer.convert_tokens_to_ids, controls))
    text = " ".join(["It reads", *sorted(controls), "\ufdd00.1\ufdd0", "so"])

    def count(question: str, answer: str) -> int:
        row = Conversation(("a.png",), ((user_turn(question, 1), answer),), "Be " + answer)
        ((ids, _),) = encode_rows([row], tokenizer, template)
        return sum(token in ids_of for token in ids)

    assert count(text, text) == count("It reads so", "red")

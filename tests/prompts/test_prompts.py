"""Prompts, byte for byte."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_models import sentencepiece_like
from typer.testing import CliRunner

from mllm_eval.catalog import load_llm
from mllm_eval.cli.app import app
from mllm_eval.data.prompts import show_prompts
from mllm_eval.errors import UserError
from mllm_eval.model import load_tokenizer
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


@pytest.mark.slow
@pytest.mark.parametrize(("template", "begin"), [("vicuna_v1", "<s> stands in front of each prompt"), ("llama_3", "")])
def test_the_command_says_what_the_tokenizer_puts_in_front(template: str, begin: str, tmp_path: Path) -> None:
    records = tmp_path / "records.jsonl"
    records.write_text(json.dumps({"record": {"question": "Is it red?", "image": None}}) + "\n")
    shown = CliRunner().invoke(app, ["prompt", "mme", "--records", str(records), "--template", template])
    assert shown.exit_code == 0, shown.output
    assert shown.stderr.startswith(begin) and bool(shown.stderr) is bool(begin)
    (line,) = shown.stdout.splitlines()
    assert json.loads(line).keys() == {"prompt"} and "<s>" not in line


def test_the_command_shows_the_tokens_that_an_llm_gets(tmp_path: Path) -> None:
    records = tmp_path / "records.jsonl"
    records.write_text(json.dumps({"record": {"question": "Is it <|eot_id|>?"}}) + "\n")
    words = ["prompt", "mme", "--records", str(records), "--template", "llama_3"]
    shown = CliRunner().invoke(app, [*words, "--llm", "mini-llama"])
    assert shown.exit_code == 0, shown.output
    (line,) = map(json.loads, shown.stdout.splitlines())
    begin, image, ends = "<|begin_of_text|>", "<image>", "<|eot_id|>"
    assert line["prompt"].startswith(begin) and line["tokens"][0] == begin
    assert (line["prompt"].count(ends), line["tokens"].count(ends), line["tokens"].count(image)) == (3, 2, 1)
    llm = load_llm("mini-llama")
    tokenizer = load_tokenizer(llm, "llama_3")
    assert tokenizer.convert_tokens_to_ids(line["tokens"]) == line["ids"]
    assert tokenizer.decode(line["ids"]) == line["prompt"]
    wrong = CliRunner().invoke(app, [*words, "--llm", "mini-llama", "--template", "vicuna_v1"])
    assert wrong.exit_code == 2 and "has no token '</s>'" in str(wrong.output)


def test_tokens_of_a_sentencepiece_prompt_begin_with_its_mark(tmp_path: Path) -> None:
    records = tmp_path / "records.jsonl"
    records.write_text(json.dumps({"record": {"question": "What is </s>?"}}) + "\n")
    tokenizer = sentencepiece_like(legacy=True)
    (line,) = map(json.loads, show_prompts("mme", records, "vicuna_v1", tokenizer=tokenizer))
    at = line["tokens"].index("<image>")
    assert (
        line["tokens"][0] == "<s>" and "</s>" not in line["tokens"] and line["tokens"][at + 1 : at + 3] == ["▁", "\n"]
    )


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ('{"question": "A?", "image": null, "question": "B?"}', ":2: field 'question' is there twice"),
        ('{"Question": "A?", "Options": "(a) b", "question": "B?"}', ":2: column 'question' is there twice .as 'Quest"),
    ],
)
def test_a_record_that_names_a_field_twice_is_refused(record: str, said: str, tmp_path: Path) -> None:
    records = tmp_path / "records.jsonl"
    whole = json.dumps({"record": {"Index": 1, "Question": "Is it red?", "Options": "(a) yes (b) no"}})
    records.write_text(f'{whole}\n{{"record": {record}}}\n')
    with pytest.raises(UserError, match=f"records.jsonl{said}"):
        list(show_prompts("mmvp", records))

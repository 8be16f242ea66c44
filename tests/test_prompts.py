"""Prompts, byte for byte."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mllm_eval.cli.app import app
from mllm_eval.errors import UserError
from mllm_eval.prompts import TEMPLATES, conversation, render
from mllm_eval.prompts.show import show_prompts


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


@pytest.mark.parametrize(("template", "begin"), [("vicuna_v1", "<s> stands in front of each prompt"), ("llama_3", "")])
def test_the_command_says_what_the_tokenizer_puts_in_front(template: str, begin: str, tmp_path: Path) -> None:
    records = tmp_path / "records.jsonl"
    records.write_text(json.dumps({"record": {"question": "Is it red?", "image": None}}) + "\n")
    shown = CliRunner().invoke(app, ["prompt", "mme", "--records", str(records), "--template", template])
    assert shown.exit_code == 0, shown.output
    assert shown.stderr.startswith(begin) and bool(shown.stderr) is bool(begin)
    (line,) = shown.stdout.splitlines()
    assert json.loads(line).keys() == {"prompt"} and "<s>" not in line


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

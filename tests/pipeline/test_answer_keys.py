"""Which answers hold: those to the same tokens, in a row that the LLM has positions for, and no others."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import made_runs
import pytest
from places import TESTS
from tasks import a_task, key_of, pending, shared_answers

from mllm_eval.answers import Answer, Journal
from mllm_eval.catalog import load_recipe
from mllm_eval.config import short_hash
from mllm_eval.data.samples import ImageRef, Sample
from mllm_eval.errors import UserError
from mllm_eval.generate import ChatFormat, Task
from mllm_eval.generate.positions import positions_in
from mllm_eval.generate.request import write_request
from mllm_eval.pipeline import flow
from mllm_eval.pipeline.inference import outdated_words
from mllm_eval.pipeline.ledger import Ledger
from mllm_eval.pipeline.reporter import Silent
from mllm_eval.prompts import marks_of, may_hold_marks, render, unmarked
from mllm_eval.results import read_run
from mllm_eval.run import Run
from mllm_eval.saved import read_all_saved, saved_runs
from mllm_eval.storage import read_jsonl

# Prompts of the miniature's benchmarks with the keys that their answers were journalled under before control marks in
# questions were text: by template, and of an external model.
STORED = read_jsonl(TESTS / "stored_keys.jsonl")


def sample(prompt: str, images: int = 1) -> Sample:
    image = ImageRef("ab" * 32, lambda: None)  # type: ignore[arg-type,return-value]
    return Sample("b", "1", (image,) * images, prompt, "", "1", "1", {})


@pytest.mark.parametrize("stored", STORED, ids=range(len(STORED)))
def test_answers_of_earlier_versions_keep_their_keys(stored: dict[str, Any]) -> None:
    one = sample(stored["prompt"], stored["images"])
    found = {template: key_of(one, template)[0] for template in ("llama_3", "vicuna_v1", "chatml_direct")}
    assert {**found, "finished": write_request(one, ChatFormat(), 1).digest} == {
        key: stored[key] for key in (*found, "finished")
    }


@pytest.mark.parametrize(
    "mark", ["<|eot_id|>", "</s>", "<s>", "[INST]", "[/INST]", "<\uff5cUser\uff5c>", "[gMASK]", "[unused7]"]
)
def test_answers_to_questions_with_marks_are_asked_again(mark: str, tmp_path: Path) -> None:
    plain, marked = sample("What does it read?"), sample(f"What does {mark} read?")
    assert not may_hold_marks(plain.prompt) and may_hold_marks(marked.prompt)
    for at, one in enumerate((plain, marked)):
        # As a version wrote them that digested the text alone.
        old = hashlib.sha256(render("llama_3", one.prompt, 1).encode()).hexdigest()[:16]
        journal = Journal(tmp_path / f"{at}.jsonl")
        journal.append([Answer("1", old, ("ab" * 8,), "red", 30, 2)])
        journal.finish(["1"])
        assert a_task([one], 8, journal, template="llama_3").is_open is bool(at)
        assert pending([one], "llama_3", journal) == ["1"] * at


def test_what_tokenizes_as_before_counts_as_before() -> None:
    for text in ("a < b and c > d", "x[n] on [0, 1] and [a]", "<image 1> shows", "the <image> mark", "list[0]", "[A]"):
        assert not may_hold_marks(text)


def test_an_answer_beyond_the_positions_counts_for_none(tmp_path: Path) -> None:
    one = sample("What?")
    journal = Journal(tmp_path / "a.jsonl")
    journal.append([Answer("1", *key_of(one, "llama_3"), "noise", 505, 8)])
    journal.finish(["1"])
    for positions, left in ((None, []), (513, []), (512, ["1"])):
        task = a_task([one], 8, journal, positions=positions, template="llama_3")
        assert pending([one], "llama_3", journal, task.room) == left
        assert task.is_open is bool(left)
        assert bool(shared_answers([one], "llama_3", [journal], task.room)) is not bool(left)
    journal = Journal(tmp_path / "finished.jsonl")
    journal.append([Answer("1", *write_request(one, ChatFormat(), 1).key, "noise", 505, 8)])
    tasks = [Task([one], 0, journal, ChatFormat(), positions=room) for room in (None, 505, 504)]
    assert [[request.id for request in task.pending] for task in tasks] == [[], [], ["1"]]


def test_positions_stand_in_a_config_and_its_parts(tmp_path: Path) -> None:
    assert positions_in(tmp_path) is None
    stretched = {"max_position_embeddings": 64, "rope_scaling": {"type": "linear", "factor": 2.0}}
    for config, limit in (
        ({"max_position_embeddings": 64}, 64),
        ({"max_position_embeddings": 9, "text_config": {"max_position_embeddings": 64}}, 64),
        ({"thinker_config": {"text_config": stretched}}, 128),
        ({"text_config": {}}, None),
        ([], None),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config))
        assert positions_in(tmp_path) == limit


def test_a_run_on_other_tokens_is_another_run() -> None:
    recipe = load_recipe("mini")
    assert (Run.of("mini-dino").hash, recipe.hash) == ("afb84f2ff91b", "bbda0a2e6199")
    assert "template_tokens" not in recipe.identity()
    vicuna = recipe.model_copy(update={"template": "vicuna_v1"})
    dumped = vicuna.model_dump(mode="json", exclude={"assumptions", "llm", "seed"})
    # `dumped` is what the hash was made of when vicuna_v1 had no begin token.
    assert vicuna.identity() == {**dumped, "template_tokens": 2}


def test_a_run_trained_on_other_tokens_is_told_and_never_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLLM_EVAL_RESULTS", str(tmp_path))
    recipe = made_runs.recipe()
    assert Run(made_runs.encoder(), recipe, made_runs.llm(), 0, {"encoder": "e"}).earlier_hashes() == []
    vicuna = recipe.model_copy(update={"template": "vicuna_v1"})
    run = Run(made_runs.encoder(), vicuna, made_runs.llm(), 0, {"encoder": "e"})
    dumped = vicuna.model_dump(mode="json", exclude={"assumptions", "llm", "seed"})
    # What an earlier version called it.
    (old,) = run.earlier_hashes()
    assert old == short_hash({**run.identity(), "recipe": dumped}) != run.hash
    run.prepare()
    made_runs.write_scores(run, "gqa", [{"id": "1", "group": "1", "cluster": "1", "score": 1}])
    shutil.copytree(run.folder, run.folder.with_name(old))
    assert [one.hash for one in saved_runs()] == [run.hash]
    said = f"trained it on other tokens of the template vicuna_v1; .* as run {run.hash}"
    assert set(read_all_saved().unreadable) == {old} and re.search(said, read_all_saved().unreadable[old])
    with pytest.raises(UserError, match=said):
        read_run(run.folder.with_name(old))
    assert read_run(run.folder).hash == run.hash
    told: list[str] = []
    trained: list[str] = []
    monkeypatch.setattr(flow, "train", lambda run, *_: trained.append(run.hash))
    ledger = Ledger(run.folder, SimpleNamespace(say=told.append, step=Silent().step))
    flow.train_missing(run, ledger)
    assert told == [f"run {old} learnt other tokens of the template vicuna_v1: trained again"]
    assert trained == [run.hash]


def test_answers_that_count_no_more_are_counted(tmp_path: Path) -> None:
    asked = [
        replace(sample("What is 1?"), id="1"),
        replace(sample("Is </s> 2?"), id="2"),
        replace(sample("3?"), id="3"),
    ]
    journal = Journal(tmp_path / "a.jsonl")
    task = a_task(asked, 8, journal, template="llama_3")
    assert task.count_outdated() == 0
    task.look_again()
    journal.append([Answer("1", *key_of(asked[0], "llama_3"), "red", 9, 2), Answer("2", "0" * 16, (), "red", 9, 2)])
    left = [request.id for request in task.pending]
    assert (left, task.count_outdated()) == (["2", "3"], 1)
    assert outdated_words("mme", 1200).startswith("mme: 1,200 of its answers are to another prompt")


def test_marks_are_those_of_tokenizer_template_and_processor() -> None:
    def token(content: str, special: bool) -> SimpleNamespace:
        return SimpleNamespace(content=content, special=special)

    added = [token("<s>", True), token("<think>", False), token("<table>", False), token("\n\n", False)]
    tokenizer = SimpleNamespace(
        added_tokens_decoder=dict(enumerate(added)), all_special_tokens=["<s>", "\u00a7"], chat_template=None
    )
    processor = SimpleNamespace(tokenizer=tokenizer, chat_template="{{ '<think>' }}", image_token="<|img|>")
    assert marks_of(processor) == ("<think>", "<|img|>", "<s>")
    text = unmarked("<s><think> <|img|> <table>\n\n<<s>s>", marks_of(processor))
    assert text == "<s ><think > <|img| > <table>\n\n<<s >s>"

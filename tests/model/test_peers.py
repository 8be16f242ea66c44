"""Exports asked by clients that others wrote: `make peers` compares, and the pinned pipeline is asked here as well."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from peers import __main__ as peers
from peers.environments import CLIENTS, HERE, reason
from places import ROOT
from tiny_models import make_encoder, make_image, make_llm, make_recipe
from transformers import AutoProcessor

from mllm_eval.adapters import load_encoder_model
from mllm_eval.data.samples import ImageRef, Sample
from mllm_eval.generate.request import ChatFormat, write_request
from mllm_eval.generate.stock import StockModel
from mllm_eval.model import assemble, load_llm_model, load_tokenizer, save_checkpoint
from mllm_eval.model.export import export_llava
from mllm_eval.prompts import template_named

OWN = {"mme/1": "Yes", "gqa/2": "red", "gqa/3": ""}


def found(folder: Path, told: dict[str, str] | None) -> peers.Found:
    answers = folder / "answers.jsonl"
    if told is None:
        return peers.held(CLIENTS[0], OWN, answers, failed="it crashed")
    answers.write_text("".join(json.dumps({"id": id_, "text": text}) + "\n" for id_, text in told.items()))
    return peers.held(CLIENTS[0], OWN, answers)


def test_every_answer_is_held_against_the_runs(tmp_path: Path) -> None:
    same = found(tmp_path, {**OWN, "mme/1": " Yes\n"})
    assert same.equal == 3 and not same.different and peers.exit_code([same]) == 0
    other = found(tmp_path, {**OWN, "gqa/2": "blue"})
    assert other.different == {"gqa/2": ("blue", "red")} and peers.exit_code([same, other]) == 1


@pytest.mark.parametrize("told", [None, {"mme/1": "Yes", "gqa/2": "red"}])
def test_a_question_without_an_answer_differs_even_where_the_runs_is_empty(told: Any, tmp_path: Path) -> None:
    one = found(tmp_path, told)
    assert "gqa/3" in one.different and peers.exit_code([one]) == 1


def test_a_client_that_is_not_installed_is_shown_and_counted_and_no_fault(tmp_path: Path) -> None:
    missing = peers.Found(CLIENTS[-1], 0, {}, missing="No matching distribution found for decord")
    text = peers.table([found(tmp_path, OWN), missing], len(OWN))
    assert "not installed: No matching distribution found for decord" in text
    assert "3 questions; 1 of 2 clients asked, 1 not installed; 3 answers equal, 0 different" in text
    assert peers.exit_code([missing]) == 0


def test_the_reason_is_pips_first_error_or_pythons_last_line() -> None:
    assert reason("WARNING: x\nERROR: No matching distribution\nERROR: Could not\n") == "No matching distribution"
    assert reason("Traceback\n\x1b[31mModuleNotFoundError: No module named 'decord'\x1b[0m\n").startswith("ModuleNotF")


def test_clients_are_pinned_and_two_of_them_to_what_the_project_says() -> None:
    pinned = dict(re.findall(r"^([\w.-]+)==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    model = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["model"]
    oldest = next(one.split(">=")[1] for one in model if one.startswith("transformers>="))
    versions = {client.name: client.pins["transformers"] for client in CLIENTS}
    assert versions["transformers-pinned"] == pinned["transformers"]
    assert versions["transformers-oldest"].removesuffix(".0") == oldest.removesuffix(".0")
    assert versions["transformers-4.57"] == "4.57.6"
    for client in CLIENTS:
        assert client.requirements and (HERE / "clients" / client.program).is_file()
        assert client.pins["torch"] == pinned["torch"] and client.version


def exported(folder: Path) -> Any:
    """In `folder`: the export `llava` of a random checkpoint whose tokenizer ends a text otherwise than a turn."""
    encoder, llm = make_encoder(folder / "encoder", "clip", norm=False), make_llm(folder / "llm")
    recipe = make_recipe(folder / "none.jsonl", folder, tokens=16, standardize=False)
    torch.manual_seed(3)
    tokenizer = load_tokenizer(llm, recipe.template)
    tokenizer.eos_token = "<|end_of_text|>"
    model = assemble(encoder, recipe, load_llm_model(llm), tokenizer).eval()
    save_checkpoint(model, folder / "checkpoint", load_encoder_model(encoder))
    export_llava(folder / "checkpoint", folder / "llava")
    return model


@pytest.mark.slow
def test_the_pinned_pipeline_answers_as_the_checkpoint_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exported(tmp_path)
    monkeypatch.syspath_prepend(str(HERE / "clients"))
    import ask_pipeline

    # Upright, wide and small: padded and enlarged on the way.
    pictures = [make_image(0), make_image(1, (40, 20)), make_image(2, (9, 13))]
    folder, lines, requests = tmp_path / "questions", [], []
    folder.mkdir()
    for number, picture in enumerate(pictures):
        picture.save(folder / f"{number}.png")
        question = f"What is number {number}?\nAnswer with a word."
        lines.append({"id": f"mme/{number}", "question": question, "images": [f"{number}.png"], "limit": 6})
        shown = (ImageRef(f"{number:064}", lambda picture=picture: picture),)
        sample = Sample("mme", str(number), shown, question, "", "", "", {})
        requests.append(write_request(sample, ChatFormat(), 6))
    (folder / "questions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    ask_pipeline.main(str(tmp_path / "llava"), folder, tmp_path / "out.jsonl")
    own = {
        f"mme/{one.id}": one.text for one in StockModel(tmp_path / "checkpoint", "float32", "cpu").generate(requests)
    }
    assert len(set(own.values())) == 3 and all(own.values())
    assert peers.held(CLIENTS[0], own, tmp_path / "out.jsonl").different == {}


@pytest.mark.slow
def test_an_exports_tokenizer_ends_a_text_by_the_token_that_ends_a_turn(tmp_path: Path) -> None:
    """Some clients stop at the tokenizer's end token alone, whatever the generation_config lists."""
    model = exported(tmp_path)
    tokenizer = AutoProcessor.from_pretrained(tmp_path / "llava").tokenizer
    close = template_named(model.config.template).assistant_close
    assert model.tokenizer.eos_token == "<|end_of_text|>" != tokenizer.eos_token == close
    written = json.loads((tmp_path / "llava" / "generation_config.json").read_text())
    assert {model.tokenizer.eos_token_id, tokenizer.eos_token_id} == set(written["eos_token_id"])

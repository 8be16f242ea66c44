"""Answers by a server that is given embeddings: a fake one answers as vLLM's does, with the model it would hold."""

from __future__ import annotations

import base64
import io
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from places import TINY_RECIPE
from pretend_server import Fake, a_server
from tasks import answer
from tiny_generation import Images, Tiny, answers_of, mixed_samples
from tiny_models import make_encoder, make_image, make_llm, make_recipe

from mllm_eval import pipeline
from mllm_eval.answers import Journal, read_answers
from mllm_eval.catalog.variant import VariantKey
from mllm_eval.data.samples import ImageRef, Sample
from mllm_eval.errors import UserError
from mllm_eval.generate.server import Server, packed
from mllm_eval.model import assemble, load_llm_model, load_tokenizer
from mllm_eval.model.llmexport import export_llm


@pytest.mark.slow
def test_it_answers_as_the_reference(held: tuple[Tiny, Fake], tmp_path: Path) -> None:
    model, fake = held
    found = answers_of(model, mixed_samples(), tmp_path / "s.jsonl", engine=a_server(fake))
    expected = answers_of(model, mixed_samples(), tmp_path / "r.jsonl", engine="reference")
    assert found == expected and len({one.text for one in found}) > 5
    body = fake.bodies[0]
    assert (body["model"], body["prompt"], body["temperature"], body["max_tokens"]) == ("held", "", 0.0, 12)
    assert body["repetition_penalty"] == 1.0
    assert len(fake.bodies) == len(expected)


@pytest.mark.slow
def test_an_image_is_projected_once_for_all_its_questions(held: tuple[Tiny, Fake], tmp_path: Path) -> None:
    model, fake = held
    projected: list[int] = []
    embed = model.embed

    def counted(features: torch.Tensor) -> torch.Tensor:
        projected.append(len(features))
        return embed(features)

    model.embed = counted  # type: ignore[method-assign]
    samples = [one for one in mixed_samples() if one.id.startswith("one")]
    answers_of(model, samples, tmp_path / "s.jsonl", engine=Server(fake.url, at_once=64))
    assert sum(projected) == len({image.sha256 for one in samples for image in one.images})


@pytest.mark.slow
def test_a_broken_image_fails_its_samples_and_is_not_sent(held: tuple[Tiny, Fake], tmp_path: Path) -> None:
    model, fake = held
    world = Images("image1")
    found = answers_of(model, mixed_samples(world), tmp_path / "s.jsonl", engine=a_server(fake), features=world)
    failed = [one.id for one in found if one.state == "error"]
    assert failed == [one.id for one in mixed_samples() if any(image.sha256 == "image1" for image in one.images)]
    assert len(fake.bodies) == len(found) - len(failed)


def test_a_mark_in_a_question_is_sent_as_text(tmp_path: Path) -> None:
    llm = make_llm(tmp_path / "llm")
    recipe = make_recipe(tmp_path / "none.jsonl", tmp_path, tokens=16, standardize=False)
    tokenizer = load_tokenizer(llm, recipe.template)
    model = assemble(make_encoder(tmp_path / "encoder"), recipe, load_llm_model(llm), tokenizer).eval()
    marks = ["<|eot_id|>", "<|start_header_id|>", "<image>"]
    image = ImageRef("ab" * 32, lambda: make_image(0))
    asked = [Sample("b", str(at), (image,), f"what is {mark}?", "", "1", "1", {}) for at, mark in enumerate(marks)]
    fake = Fake(model.llm)
    threading.Thread(target=fake.serve_forever, daemon=True).start()
    found = {}
    for name, engine in (("server", Server(fake.url, waits=())), ("engine", "batched")):
        journal = Journal(tmp_path / f"{name}.jsonl")
        options: Any = {"features": lambda refs: [torch.ones(4, 4, 32) for _ in refs], "engine": engine}
        found[name] = answer(model, asked, recipe.template, max_new_tokens=3, journal=journal, **options)
    fake.shutdown()
    assert found["server"] == found["engine"] and {one.state for one in found["server"]} == {"ok"}
    assert len(fake.bodies) == len(asked)
    words = model.llm.get_input_embeddings().weight
    for body in fake.bodies:
        prompt = torch.load(io.BytesIO(base64.b64decode(body["prompt_embeds"])), weights_only=True)
        counts = [int((prompt == words[tokenizer.convert_tokens_to_ids(mark)]).all(-1).sum()) for mark in marks]
        # The template's own: the end of the user's turn and two heads. An image is no token.
        assert counts == [1, 2, 0]


@pytest.mark.slow
def test_a_question_beyond_the_servers_positions_is_not_sent(held: tuple[Tiny, Fake], tmp_path: Path) -> None:
    model, fake = held
    samples = mixed_samples()
    whole = answers_of(model, samples, tmp_path / "whole.jsonl", engine=a_server(fake))
    longest, limit = max(one.tokens_in for one in whole), max(one.tokens_in for one in whole) + 11
    fake.bodies.clear()
    fake.models = [{"id": "held", "max_model_len": limit}]
    found = answers_of(model, samples, tmp_path / "s.jsonl", engine=a_server(fake))
    left_out = {one.id for one in whole if one.tokens_in == longest}
    assert {one.id for one in found if one.state == "error"} == left_out
    reason = f"does not fit the LLM: {longest} tokens and up to 12 of an answer, {limit} positions"
    assert {one.reason for one in found if one.state == "error"} == {reason}
    kept = [one for one in whole if one.id not in left_out]
    assert [one for one in found if one.state == "ok"] == kept and len(fake.bodies) == len(kept) > 0


@pytest.mark.parametrize(
    ("models", "positions"),
    [
        ([{"id": "held", "max_model_len": 40}], 40),
        ([{"id": "held"}], None),
        ([{"id": "held", "max_model_len": "40"}], None),
        ([], None),
        (["held"], None),
        (None, None),
    ],
)
def test_what_a_server_says_of_its_positions(held: tuple[Tiny, Fake], models: Any, positions: int | None) -> None:
    _, fake = held
    fake.models = models
    assert a_server(fake).positions == positions


@pytest.mark.slow
def test_a_busy_server_is_asked_again_and_a_refusing_one_is_told_of(held: tuple[Tiny, Fake], tmp_path: Path) -> None:
    model, fake = held
    samples = mixed_samples()
    fake.script = [503, 200, 503]
    found = answers_of(model, samples, tmp_path / "busy.jsonl", engine=a_server(fake))
    assert {one.state for one in found} == {"ok"} and len(fake.bodies) == len(samples) + 2
    fake.script = [200] * 6 + [400] * 40
    with pytest.raises(UserError, match=r"400.*no prompt_embeds here.*docs/vllm\.md") as error:
        answers_of(model, samples, tmp_path / "refused.jsonl", engine=Server(fake.url, at_once=1, waits=()))
    assert "\n" not in str(error.value)
    fake.script = []
    fake.shutdown()
    fake.server_close()
    with pytest.raises(UserError, match=r"docs/vllm\.md"):
        answers_of(model, samples, tmp_path / "gone.jsonl", engine=Server(fake.url, waits=(0.0,)))


def test_a_server_that_tells_no_tokens_is_too_old(held: tuple[Tiny, Fake], tmp_path: Path) -> None:
    model, fake = held
    fake.told = False
    with pytest.raises(UserError, match="token_ids"):
        answers_of(model, mixed_samples(), tmp_path / "s.jsonl", engine=a_server(fake))


def test_what_is_no_address_is_refused() -> None:
    for url in ("localhost:8000", "file:///etc", "http://"):
        with pytest.raises(UserError, match="no address"):
            Server(url)


def test_only_a_prompts_own_embeddings_are_sent() -> None:
    held = torch.randn(1000, 8)
    sent = packed(held[3:5])
    assert len(sent) < 4000
    back = torch.load(io.BytesIO(base64.b64decode(sent)), weights_only=True)
    assert torch.equal(back, held[3:5])


@pytest.mark.slow
def test_a_run_is_answered_by_the_llm_that_it_exports(tiny_home: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run = pipeline.evaluate("tiny-dinov2", TINY_RECIPE, benchmarks=["mme"], subset=10)
    path = run.answers_path("mme", VariantKey("default", 160))
    own = [one.text for one in read_answers(path)]
    path.unlink()
    export_llm(run.checkpoint, tmp_path / "llm")
    with pytest.raises(UserError, match="already"):
        export_llm(run.checkpoint, tmp_path / "llm")
    AutoTokenizer.from_pretrained(tmp_path / "llm")
    fake = Fake(AutoModelForCausalLM.from_pretrained(tmp_path / "llm").eval())
    threading.Thread(target=fake.serve_forever, args=(0.02,), daemon=True).start()
    try:
        pipeline.evaluate("tiny-dinov2", TINY_RECIPE, benchmarks=["mme"], subset=10, server=fake.url)
    finally:
        fake.shutdown()
        fake.server_close()
    assert [one.text for one in read_answers(path)] == own and fake.bodies
    assert f"asking held at {fake.url}" in (run.folder / "ledger.jsonl").read_text(encoding="utf-8")

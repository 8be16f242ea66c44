"""p(yes) of real models: the first token's logits against the plain way, spellings, a stock model, a server."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import make_encoder, make_image, make_llm, make_recipe, make_tokenizer
from transformers import AutoTokenizer

from mllm_eval.adapters import load_encoder_model
from mllm_eval.catalog.level import load_level
from mllm_eval.errors import UserError
from mllm_eval.external import ExternalModel
from mllm_eval.filtering import Filtered, Tally
from mllm_eval.filtering.corpusrun import Spent
from mllm_eval.filtering.models import RunJudge, ServedJudge, StockJudge, count_operations
from mllm_eval.filtering.spellings import find_spellings, said
from mllm_eval.filtering.throughput import operations
from mllm_eval.generate.model import embed_images, embed_pieces
from mllm_eval.generate.server import Server
from mllm_eval.model import assemble, load_llm_model, load_tokenizer, save_checkpoint
from mllm_eval.prompts import PromptTokens, prompt_parts
from mllm_eval.run import Run
from mllm_eval.storage import PACKAGE

QUESTION = load_level("light").question


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Run:
    """A run of random weights with a checkpoint; parameters change its recipe."""
    monkeypatch.setenv("MLLM_EVAL_RESULTS", str(tmp_path / "results"))
    encoder, llm = make_encoder(tmp_path / "encoder"), make_llm(tmp_path / "llm")
    recipe = make_recipe(tmp_path / "none.jsonl", tmp_path, **getattr(request, "param", {}))
    made = Run(encoder, recipe, llm, 0)
    torch.manual_seed(5)
    model = assemble(encoder, recipe, load_llm_model(llm), load_tokenizer(llm, recipe.template))
    save_checkpoint(model, made.checkpoint, load_encoder_model(encoder))
    return made


def plain(judge: RunJudge, run: Run, image: Any) -> torch.Tensor:
    """The logits by the model's public interface: the whole prompt, one image, no cache."""
    model, words = judge.model, PromptTokens(judge.model.tokenizer, run.recipe.template)
    one = judge.prepare(image)
    before, after = (ids for ids, _ in words.encode(words.chunks(prompt_parts(run.recipe.template, QUESTION, 1))))
    with torch.inference_mode():
        features = model.encode(torch.from_numpy(one.pixels)[None])[0]
        kept = None if one.kept is None else {"x": one.kept}
        embedded = embed_images(model, {"x": features}, kept)
        prompt = embed_pieces(model, [tuple(before), "x", tuple(after)], embedded)
        return model.llm(inputs_embeds=prompt[None]).logits[0, -1]


@pytest.mark.slow
@pytest.mark.parametrize("run", [{}, {"padding": "hide", "row_token": True}], indirect=True)
def test_first_logits_are_those_of_the_whole_prompt_alone(run: Run) -> None:
    judge = RunJudge(run, QUESTION, 4)
    images = [make_image(1), make_image(2, (28, 11)), make_image(3, (9, 28)), make_image(4)]
    prepared = [judge.prepare(image) for image in images]
    found = judge.question.logits(judge.features(prepared), [one.kept for one in prepared])
    expected = torch.stack([plain(judge, run, image) for image in images])
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)
    judge.question.plain = True
    other = judge.question.logits(judge.features(prepared), [one.kept for one in prepared])
    torch.testing.assert_close(other, expected, atol=2e-5, rtol=1e-4)
    alone = [judge.judge([one])[0] for one in prepared]
    for one, together in zip(alone, judge.judge(prepared), strict=True):
        assert one == pytest.approx(together, abs=1e-5)


@pytest.mark.slow
def test_p_yes_is_summed_over_all_spellings(run: Run) -> None:
    judge = RunJudge(run, QUESTION, 4)
    assert not judge.spellings.whole, "a tokenizer of bytes has no token for a word"
    assert judge.about["yes"] == ["Y", "y"] and judge.about["no"] == ["N", "n"]
    (found,) = judge.judge([judge.prepare(make_image(1))])
    p = plain(judge, run, make_image(1)).double().softmax(-1)
    yes, no = (p[list(ids)].sum().item() for ids in (judge.spellings.yes, judge.spellings.no))
    assert found == pytest.approx((yes / (yes + no), yes + no), rel=1e-4)


def test_spellings_of_a_real_vocabulary() -> None:
    tokenizer = AutoTokenizer.from_pretrained(PACKAGE / "miniature/weights/mini-llama")
    found = find_spellings(tokenizer, len(tokenizer))
    assert found.whole and found.texts(tokenizer) == {"yes": [" yes", "Yes", "yes"], "no": [" no", "no", "No"]}
    few = find_spellings(tokenizer, max(found.yes))
    assert max(found.yes) not in few.yes, "the output layer does not know it"


def test_words_around_yes_and_no_are_others() -> None:
    assert {said(text) for text in (" Yes", "YES.", "\n(yes)", "\uff39\uff45\uff53", "yes!")} == {"yes"}
    assert not {said(text) for text in ("yesterday", "eyes", "know", "not", "No one")} & {"yes", "no"}


def test_a_tokenizer_that_begins_both_alike_is_refused() -> None:
    class Alike:
        all_special_ids: tuple[int, ...] = ()

        def __len__(self) -> int:
            return 3

        def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
            return ["x"] * len(ids)

        def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
            return {"input_ids": [0, 1]}

    with pytest.raises(UserError, match="no token that begins yes"):
        find_spellings(Alike(), 3)


@pytest.mark.slow
@pytest.mark.parametrize("run", [{}, {"padding": "hide"}], indirect=True)
def test_a_finished_model_judges_as_the_run_it_was(run: Run) -> None:
    images = [make_image(1), make_image(2, (28, 11)), make_image(3, (9, 28))]
    own = RunJudge(run, QUESTION, 3)
    expected = own.judge([own.prepare(image) for image in images])
    stock = StockJudge(ExternalModel.of(str(run.checkpoint)), QUESTION, 3)
    found = stock.judge([stock.prepare(image) for image in images])
    assert stock.about["yes"] == own.about["yes"]
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, abs=1e-4)


class Telling(BaseHTTPRequestHandler):
    """Tells log-probabilities of the first token as vLLM's server does."""

    llm: Any = None
    most = 20

    def do_GET(self) -> None:
        self._say({"data": [{"id": "held"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert body["max_tokens"] == 1 and body["return_tokens_as_token_ids"] and body["logprobs"] == 20
        prompt = torch.load(io.BytesIO(base64.b64decode(body["prompt_embeds"])), weights_only=True)[None]
        with torch.inference_mode():
            told = self.llm(inputs_embeds=prompt).logits[0, -1].double().log_softmax(-1).topk(self.most)
        pairs = {
            f"token_id:{token}": value for token, value in zip(told.indices.tolist(), told.values.tolist(), strict=True)
        }
        self._say({"choices": [{"logprobs": {"top_logprobs": [pairs]}}]})

    def _say(self, data: Any) -> None:
        sent = json.dumps(data).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def served(run: Run) -> Iterator[tuple[Server, RunJudge, type[Telling]]]:
    judge = RunJudge(run, QUESTION, 3)
    handler = type("Handler", (Telling,), {"llm": judge.model.llm})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield Server(f"http://127.0.0.1:{server.server_address[1]}", at_once=2, waits=()), judge, handler
    server.shutdown()


@pytest.mark.slow
def test_a_server_tells_what_the_engine_computes(run: Run, served: Any) -> None:
    server, own, handler = served
    handler.most = len(make_tokenizer())
    judge = ServedJudge(run, QUESTION, 3, server)
    prepared = [own.prepare(make_image(index)) for index in range(3)]
    for one, other in zip(judge.judge(prepared), own.judge(prepared), strict=True):
        assert one == pytest.approx(other, abs=1e-5)
    assert judge.about["by"] == "server"


@pytest.mark.slow
def test_a_server_that_tells_neither_word_gives_no_answer(run: Run, served: Any) -> None:
    server, own, handler = served
    handler.most = 1
    (found,) = ServedJudge(run, QUESTION, 3, server).judge([own.prepare(make_image(1))])
    assert found == "neither yes nor no is among the 1 likeliest first tokens"


@pytest.mark.slow
def test_operations_of_an_image_are_those_that_torch_counts(run: Run, tmp_path: Path) -> None:
    own = RunJudge(run, QUESTION, 1)
    prepared = [own.prepare(make_image(1))]
    made = Filtered(tmp_path, {}, own.about, Tally(), 1, Spent())
    # The plain way computes all positions in all layers, also the words before the image.
    own.question.plain = True
    tokens, shared = own.about["tokens"], own.about["shared"]
    expected = count_operations(lambda: own.judge(prepared)) * (tokens - shared) / tokens
    assert operations(run, made) == pytest.approx(expected, rel=0.05)
    stock = StockJudge(ExternalModel.of(str(run.checkpoint)), QUESTION, 2)
    images = [stock.prepare(make_image(1))]
    assert stock.about["flops"] == pytest.approx(count_operations(lambda: stock.judge(images)), rel=1e-6)
    other = Filtered(tmp_path, {}, stock.about, Tally(), 1, Spent())
    assert operations(None, made) is None
    assert operations(None, other) == pytest.approx(expected * tokens / (tokens - shared), rel=0.2)

"""External models asked as they are, and this project's checkpoints made into stock ones."""

from __future__ import annotations

import csv
import json
import re
import shutil
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from external_models import QUESTIONS, a_request, ask, make_checkpoint
from tasks import answer
from tiny_models import make_image
from tokenizers import processors
from typer.testing import CliRunner

from mllm_eval.answers import Answer, Journal, read_answers
from mllm_eval.catalog import load_benchmark
from mllm_eval.catalog.variant import BLIND, DEFAULT
from mllm_eval.cli.app import app
from mllm_eval.data.snapshots import load_samples
from mllm_eval.disk import sum_note
from mllm_eval.distributed import Share
from mllm_eval.errors import UserError
from mllm_eval.external import ExternalModel
from mllm_eval.generate import ChatFormat, Hooks, Limits, Task, answer_tasks
from mllm_eval.generate.stock import StockModel
from mllm_eval.model import load_checkpoint, save_checkpoint
from mllm_eval.model.export import export_llava
from mllm_eval.pipeline import sources
from mllm_eval.pipeline.reporter import Silent
from mllm_eval.prompts import PromptTokens, prompt_parts, render
from mllm_eval.report import comparison
from mllm_eval.results import read_run
from mllm_eval.saved import saved
from mllm_eval.storage import read_json, read_jsonl

# What the tests share takes long to make.
pytestmark = pytest.mark.slow


def answer_external(
    model: StockModel,
    samples: Sequence[Any],
    max_new_tokens: int,
    journal: Journal,
    progress: Any = None,
    batch: int = 1,
    share: Share | None = None,
) -> list[Answer]:
    """The answers as one task; none on a rank that does not finish the journal."""
    model.limits = Limits(rows=batch)
    task = Task(samples, max_new_tokens, journal, ChatFormat(model.overruled), positions=model.positions)
    answer_tasks(model, [task], Hooks(share=share, progress=progress))
    done = journal.done()
    return [done[sample.id] for sample in samples] if not journal.rank else []


# ---- decoding ----
OWN_WAY: dict[str, Any] = {
    "repetition_penalty": 1.8,
    "no_repeat_ngram_size": 1,
    "forced_eos_token_id": 65,
    "suppress_tokens": [70, 71],
    "begin_suppress_tokens": list(range(60, 100)),
    "bad_words_ids": [[80], [81]],
    "min_length": 400,
    "min_new_tokens": 8,
    "num_beams": 3,
    "num_return_sequences": 2,
    "early_stopping": True,
    "length_penalty": 2.0,
    "do_sample": True,
    "temperature": 7.0,
    "stop_strings": ["a"],
    "exponential_decay_length_penalty": [1, 3.0],
    "guidance_scale": 2.0,
    "sequence_bias": [[[90], 30.0]],
    "return_dict_in_generate": True,
}


def with_decoding(llava: Path, to: Path, where: str, said: dict[str, Any]) -> Path:
    shutil.copytree(llava, to)
    path = to / where
    held = json.loads(path.read_text()) if path.is_file() else {}
    if where == "config.json":
        (to / "generation_config.json").unlink(missing_ok=True)
    path.write_text(json.dumps({**held, **said}))
    return to


@pytest.mark.parametrize("name", sorted(set(OWN_WAY) - {"return_dict_in_generate"}))
def test_each_field_of_a_generation_config_is_overruled(name: str, external_home: Path, tmp_path: Path) -> None:
    greedy = read_answers(ask(external_home / "llava").answers_path("easy_vqa"))
    model = ask(
        with_decoding(external_home / "llava", tmp_path / "own", "generation_config.json", {name: OWN_WAY[name]})
    )
    assert [one.text for one in read_answers(model.answers_path("easy_vqa"))] == [one.text for one in greedy]
    assert model.overruled == {name: OWN_WAY[name]}


def test_what_was_overruled_stands_in_record_table_and_show(external_home: Path, tmp_path: Path) -> None:
    own = with_decoding(external_home / "llava", tmp_path / "own-way", "generation_config.json", OWN_WAY)
    greedy = read_answers(ask(external_home / "llava").answers_path("easy_vqa"))
    model = ask(own)
    assert [one.text for one in read_answers(model.answers_path("easy_vqa"))] == [one.text for one in greedy]
    assert ExternalModel.load(model.folder).overruled == {
        name: value for name, value in OWN_WAY.items() if name != "return_dict_in_generate"
    }
    (row,) = comparison([read_run(model.folder)]).rows
    assert "overruled of its generation_config: " in row.notes[1] and "repetition_penalty 1.8" in row.notes[1]
    shown = CliRunner().invoke(app, ["show", model.hash], env={"COLUMNS": "2000"}).output
    assert "decoded greedily; overruled of its generation_config:" in shown and "num_beams 3" in shown


def test_older_models_say_it_in_their_config(external_home: Path, tmp_path: Path) -> None:
    said = {"repetition_penalty": 1.8, "no_repeat_ngram_size": 1}
    greedy = read_answers(ask(external_home / "llava").answers_path("easy_vqa"))
    model = ask(with_decoding(external_home / "llava", tmp_path / "old", "config.json", said))
    assert model.overruled == {"no_repeat_ngram_size": 1, "repetition_penalty": 1.8}
    assert [one.text for one in read_answers(model.answers_path("easy_vqa"))] == [one.text for one in greedy]


def test_a_config_that_changes_nothing_leaves_no_note(external_home: Path, tmp_path: Path) -> None:
    plain = {"repetition_penalty": 1.0, "top_k": 50, "top_p": 1.0, "num_beams": 1, "do_sample": False, "min_length": 0}
    model = ask(with_decoding(external_home / "llava", tmp_path / "plain", "generation_config.json", plain))
    assert model.overruled == {} and len(comparison([read_run(model.folder)]).rows[0].notes) == 1


def test_what_was_overruled_is_kept_where_the_model_is_gone(
    external_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLLM_EVAL_RESULTS", str(tmp_path / "results"))
    model = replace(ExternalModel.of("owner/name@abc"), overruled={"num_beams": 3})
    assert ExternalModel.of("owner/name@abc").overruled is None
    model.write_config()
    assert ExternalModel.of("owner/name@abc").overruled == {"num_beams": 3}


def test_answers_that_were_decoded_its_own_way_are_asked_again(external_home: Path, tmp_path: Path) -> None:
    model = ask(with_decoding(external_home / "llava", tmp_path / "again", "generation_config.json", {"num_beams": 3}))
    path = model.answers_path("easy_vqa")
    (tmp_path / "again.txt").write_bytes(path.read_bytes())
    # As a version wrote them that knew nothing of decoding: keyed by messages and images alone.
    plain = read_answers(ask(external_home / "llava").answers_path("easy_vqa"))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    by_id = {one.id: one.prompt for one in plain}
    old = [
        {**line, "prompt": by_id[line["id"]], "text": "beams"} if line.get("id") in by_id else line for line in lines
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in old))
    sum_note(path).unlink()
    config = yaml.safe_load((model.folder / "config.yaml").read_text())
    del config["model"]["overruled"]
    (model.folder / "config.yaml").write_text(yaml.safe_dump(config))
    (row,) = comparison([read_run(model.folder)]).rows
    assert "decoded as its generation_config says" in row.notes[1]
    ask(tmp_path / "again")
    assert read_answers(path) == read_answers(tmp_path / "again.txt")


# ---- asking ----
def test_a_stock_llava_is_asked_and_scored(external_home: Path) -> None:
    model = ask(external_home / "llava", blind=True)
    for variant, images in ((DEFAULT, 1), (BLIND, 0)):
        answers = read_answers(model.answers_path("easy_vqa", variant))
        assert [one.id for one in answers] == [f"q{at}" for at in range(QUESTIONS)]
        assert {(one.state, len(one.images)) for one in answers} == {("ok", images)}
        assert all(0 < one.tokens_out <= 8 for one in answers)
        assert read_json(model.summary_path("easy_vqa", "cambrian", variant))["n"] == QUESTIONS
        assert len(read_jsonl(model.scores_path("easy_vqa", "cambrian", variant))) == QUESTIONS
    seen = read_answers(model.answers_path("easy_vqa"))
    unseen = read_answers(model.answers_path("easy_vqa", BLIND))
    assert [one.tokens_in - 16 - 1 for one in seen] == [one.tokens_in for one in unseen]
    assert len({one.text for one in seen}) > 2


def test_it_answers_as_the_checkpoint_does_that_it_was_made_of(external_home: Path) -> None:
    checkpoint = external_home / "made" / "checkpoint"
    theirs = read_answers(ask(external_home / "llava").answers_path("easy_vqa"))
    own = read_answers(ask(checkpoint).answers_path("easy_vqa"))
    model = load_checkpoint(checkpoint)
    benchmark = load_benchmark("easy_vqa")
    samples = load_samples(benchmark, "easy-vqa")

    def features(images: Any) -> list[torch.Tensor]:
        encoder: Any = model.encoder
        pixels = torch.stack([torch.from_numpy(encoder.preprocess(image.load())) for image in images])
        return list(model.encode(pixels))

    journal = Journal(external_home / "engine.jsonl")
    engine = answer(model, samples, model.config.template, features, 8, journal)
    assert [one.text for one in theirs] == [one.text for one in own] == [one.text for one in engine]
    assert [one.tokens_in for one in own] == [one.tokens_in for one in engine]


def test_the_same_command_again_loads_nothing(external_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = ask(external_home / "llava")

    def loaded(*_: object) -> None:
        raise AssertionError("something is computed again")

    monkeypatch.setattr("mllm_eval.generate.stock.StockModel.__init__", loaded)
    monkeypatch.setattr("mllm_eval.pipeline.completion.score_answers", loaded)
    assert ask(external_home / "llava") == first


def test_stopped_on_its_way_it_goes_on_to_the_same_bytes(external_home: Path, tmp_path: Path) -> None:
    samples = load_samples(load_benchmark("easy_vqa"), "easy-vqa")
    model = StockModel(external_home / "llava", "float32", "cpu")
    whole = Journal(tmp_path / "whole.jsonl")
    answer_external(model, samples, 8, whole, batch=2)
    asked: list[int] = []
    half = Journal(tmp_path / "half.jsonl")

    def stop(done: int, _: int) -> None:
        if done >= 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        answer_external(model, samples, 8, half, stop, batch=2)
    original = model.generate

    def counted(requests: Any) -> Any:
        asked.append(len(requests))
        return original(requests)

    model.generate = counted  # type: ignore[method-assign]
    answer_external(model, samples, 8, half, batch=2)
    assert half.path.read_bytes() == whole.path.read_bytes()
    assert sum(asked) == QUESTIONS - 4


def test_two_that_share_the_questions_give_the_same_bytes(external_home: Path, tmp_path: Path) -> None:
    samples = load_samples(load_benchmark("easy_vqa"), "easy-vqa")
    model = StockModel(external_home / "llava", "float32", "cpu")
    alone = Journal(tmp_path / "alone.jsonl")
    answers = answer_external(model, samples, 8, alone, batch=2)
    board = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    path = tmp_path / "shared.jsonl"

    def as_rank(rank: int) -> list[Answer]:
        own = torch.distributed.TCPStore("127.0.0.1", board.port) if rank else board
        return answer_external(model, samples, 8, Journal(path, rank), batch=2, share=Share(rank, 2, own))

    with ThreadPoolExecutor(2) as ranks:
        assert list(ranks.map(as_rank, range(2))) == [answers, []]
    assert path.read_bytes() == alone.path.read_bytes()
    assert {one.name for one in tmp_path.glob("shared*")} == {"shared.jsonl", "shared.limit"}


def test_batches_give_the_answers_of_one_by_one(external_home: Path) -> None:
    one, three = (read_answers(ask(external_home / "llava", batch=batch).answers_path("easy_vqa")) for batch in (1, 3))
    assert [answer.text for answer in one] == [answer.text for answer in three]
    assert [answer.tokens_in for answer in one] == [answer.tokens_in for answer in three]


def test_a_broken_image_fails_its_own_questions_only(external_home: Path, tmp_path: Path) -> None:
    samples = load_samples(load_benchmark("easy_vqa"), "easy-vqa")

    def broken() -> Any:
        raise UserError("row 1: the image can't be decoded")

    image = type(samples[0].images[0])(samples[0].images[0].sha256, broken)
    from dataclasses import replace

    spoilt = [replace(samples[0], images=(image,)), *samples[1:4]]
    model = StockModel(external_home / "llava", "float32", "cpu")
    answers = answer_external(model, spoilt, 4, Journal(tmp_path / "a.jsonl"), batch=2)
    assert [one.state for one in answers] == ["error", "ok", "ok", "ok"]
    assert answers[0].reason == "row 1: the image can't be decoded"


def test_a_mark_in_a_questions_own_words_is_no_image(external_home: Path) -> None:
    from dataclasses import replace

    sample = load_samples(load_benchmark("easy_vqa"), "easy-vqa")[0]
    model = StockModel(external_home / "llava", "float32", "cpu")
    sly = replace(sample, prompt="what does <image> mean?")
    assert model.render(a_request(sly)).count("<image>") == 1
    (one,) = model.generate([a_request(sly)])
    assert one.state == "ok"


MARKS = [
    "<image>",
    "<|eot_id|>",
    "<|begin_of_text|>",
    "<|start_header_id|>assistant<|end_header_id|>",
    "<image<image>>",
]


@pytest.mark.parametrize("mark", MARKS)
def test_control_marks_in_a_question_are_text(mark: str, external_home: Path) -> None:
    first = load_samples(load_benchmark("easy_vqa"), "easy-vqa")[0]
    plain, sly = (replace(first, prompt=f"what does {text} mean?\nA. {text}") for text in ("it", mark))
    model = StockModel(external_home / "llava", "float32", "cpu")
    controls = set(model.tokenizer.added_tokens_decoder)
    found: list[list[int]] = []

    def generate(**inputs: Any) -> Any:
        found.append(inputs["input_ids"][0].tolist())
        return inputs["input_ids"]

    model.model.generate = generate
    for one in (plain, sly):
        model.generate([a_request(one)])
    counts = [[token in controls for token in ids].count(True) for ids in found]
    assert counts[0] == counts[1] and len(found[1]) > len(found[0])
    assert "".join(mark.split()) in "".join(model.tokenizer.decode(found[1]).split())


def test_a_checkpoint_of_ones_own_is_asked_sly_questions_as_its_run_is(external_home: Path) -> None:
    first = load_samples(load_benchmark("easy_vqa"), "easy-vqa")[0]
    model = load_checkpoint(external_home / "made" / "checkpoint")
    own = StockModel(external_home / "made" / "checkpoint", "float32", "cpu")
    words = PromptTokens(model.tokenizer, "llama_3_meta")
    for mark in MARKS:
        one = replace(first, prompt=f"what does {mark} mean?")
        chunks = words.chunks(prompt_parts(model.config.template, one.prompt, 1))
        found = own.processor(text=[own.write(a_request(one))], images=[[one.images[0].load()]])["input_ids"][
            0
        ].tolist()
        before, behind = (ids for ids, _ in words.encode(chunks))
        assert found == [*before, *[model.config.image_token_id] * 16, *behind]


class Short:
    """An external model of few positions, which counts what it is asked."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.model = StockModel(folder, "float32", "cpu")
        self.model.model.config.get_text_config().max_position_embeddings = limit
        self.asked = 0
        generate = self.model.model.generate

        def counted(**inputs: Any) -> Any:
            self.asked += len(inputs["input_ids"])
            return generate(**inputs)

        self.model.model.generate = counted


@pytest.mark.parametrize("batch", [1, 3])
def test_a_question_beyond_the_positions_fails_and_no_other(batch: int, external_home: Path, tmp_path: Path) -> None:
    samples = load_samples(load_benchmark("easy_vqa"), "easy-vqa")[:4]
    long = replace(samples[1], prompt="long " * 20)
    samples = [samples[0], long, *samples[2:]]
    whole = answer_external(
        StockModel(external_home / "llava", "float32", "cpu"), samples, 8, Journal(tmp_path / "a.jsonl")
    )
    assert {one.state for one in whole} == {"ok"}
    length = whole[1].tokens_in
    short, journal = Short(external_home / "llava", length + 7), Journal(tmp_path / "short.jsonl")
    found = answer_external(short.model, samples, 8, journal, batch=batch)
    assert [one.state for one in found] == ["ok", "error", "ok", "ok"]
    reason = f"does not fit the LLM: {length} tokens and up to 8 of an answer, {length + 7} positions"
    assert (found[1].reason, found[1].tokens_in, found[1].tokens_out) == (reason, length, 0)
    assert [found[at].text for at in (0, 2, 3)] == [whole[at].text for at in (0, 2, 3)]
    # It is not asked again, and what has room to the last position is answered.
    answer_external(short.model, samples, 8, journal, batch=batch)
    assert short.asked == 3
    exact = Short(external_home / "llava", length + 8)
    assert answer_external(exact.model, [long], 8, Journal(tmp_path / "exact.jsonl"))[0].state == "ok"


def test_answers_beyond_the_positions_are_asked_again(external_home: Path, tmp_path: Path) -> None:
    samples = load_samples(load_benchmark("easy_vqa"), "easy-vqa")[:2]
    journal = Journal(tmp_path / "a.jsonl")
    before = answer_external(StockModel(external_home / "llava", "float32", "cpu"), samples, 8, journal)
    after = answer_external(Short(external_home / "llava", 20).model, samples, 8, journal)
    assert [one.state for one in (*before, *after)] == ["ok", "ok", "error", "error"]


def test_a_finished_run_with_answers_beyond_the_positions_is_open(external_home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "llava"
    shutil.copytree(external_home / "llava", folder)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["max_position_embeddings"] = 20
    (folder / "config.json").write_text(json.dumps(config))
    # As a version left them that asked beyond the positions.
    model, before = ExternalModel.of(str(folder), "easy-vqa"), ask(external_home / "llava")
    assert model.hash != before.hash
    shutil.copytree(before.folder / "answers", model.folder / "answers")
    assert {one.state for one in read_answers(model.answers_path("easy_vqa"))} == {"ok"}
    told: list[str] = []
    assert ask(folder, reporter=SimpleNamespace(say=told.append, step=Silent().step)) == model
    assert any("easy_vqa: 9 of its answers are to another prompt" in line and "asked again" in line for line in told)
    assert {one.state for one in read_answers(model.answers_path("easy_vqa"))} == {"error"}


def test_empty_answers_are_counted_and_shown(external_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = ask(external_home / "llava", batch=2)
    path, summary = model.answers_path("easy_vqa"), model.summary_path("easy_vqa", "cambrian")
    assert read_json(summary)["n_empty"] == sum(not one.text for one in read_answers(path)) == 0
    lines = read_jsonl(path)
    for line in lines[:2]:
        line["text"] = ""
    # Failed: no answer at all.
    lines[2] |= {"text": "", "state": "error", "reason": "does not fit the LLM"}
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    sum_note(path).unlink()
    ask(external_home / "llava", batch=2)
    found = read_json(summary)
    assert (found["n"], found["n_failed"], found["n_empty"]) == (QUESTIONS, 1, 2)
    shown = CliRunner().invoke(app, ["show", model.hash], env={"COLUMNS": "2000"}).stdout
    assert "empty" in shown and re.search(rf"easy_vqa.* {QUESTIONS} +1 +\d+ +2 ", shown)
    # A summary of a version that did not count them is made again, without asking.
    summary.write_text(json.dumps({key: value for key, value in found.items() if key != "n_empty"}))
    monkeypatch.setattr("mllm_eval.generate.stock.StockModel.__init__", None)
    ask(external_home / "llava", batch=2)
    assert read_json(summary) == found


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), "no config.json; an external model in the hub's format has"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"no"), "not a safetensors file, or cut short"),
        (lambda folder: (folder / "chat_template.jinja").unlink(), "its processor has no chat template"),
        (lambda folder: (folder / "chat_template.jinja").write_text("{{ messages[0]['role'] }}"), "0 of 1 image marks"),
    ],
)
def test_models_that_cannot_be_asked_are_refused(external_home: Path, tmp_path: Path, spoil: Any, message: str) -> None:
    folder = tmp_path / "spoilt"
    shutil.copytree(external_home / "llava", folder)
    spoil(folder)
    with pytest.raises(UserError, match=message):
        ask(folder)


def test_a_models_own_code_is_never_run(tmp_path: Path, external_home: Path) -> None:
    folder = tmp_path / "strange"
    folder.mkdir()
    (folder / "strange.py").write_text("raise SystemExit('it ran')")
    auto = {"AutoConfig": "strange.Config", "AutoModelForImageTextToText": "strange.Model"}
    (folder / "config.json").write_text(json.dumps({"model_type": "strange", "auto_map": auto}))
    with pytest.raises(UserError, match="the config cannot be read"):
        ask(folder)
    shutil.copytree(external_home / "made" / "llm", tmp_path / "llm")
    with pytest.raises(UserError, match="holds a 'llama', which is no model for images and text"):
        ask(tmp_path / "llm")


def test_names_that_are_neither_folder_nor_repository(external_home: Path) -> None:
    with pytest.raises(UserError, match="neither a folder nor a repository"):
        ask(Path("nothing"))
    with pytest.raises(UserError, match=r"owner/vlm@v1: .* not on this machine; fetch and lock them with"):
        ask(Path("owner/vlm@v1"))


def test_the_command_line_knows_finished_models(external_home: Path) -> None:
    def call(*words: str) -> Any:
        return CliRunner().invoke(app, list(words))

    words = [
        "eval",
        "--model",
        str(external_home / "llava"),
        "--data",
        "easy-vqa",
        "--benchmarks",
        "easy_vqa",
        "--dtype",
        "float32",
    ]
    shown = call(*words)
    assert shown.exit_code == 0, shown.output
    assert "llava" in shown.output
    model = ask(external_home / "llava")
    assert f"{model.hash}  llava-easy-vqa" in call("ls").output
    assert "llava, an external model" in call("show", model.hash).output
    assert saved(model.hash) == model
    assert f"{model.name}: easy_vqa" in call("score", model.hash).output
    checkpoint = ask(external_home / "made" / "checkpoint")
    both = call("table", "--runs", f"{model.hash},{checkpoint.hash}")
    assert both.exit_code == 0, both.output
    assert "llava" in both.output and "checkpoint" in both.output
    (row, _) = csv.DictReader(call("table", "--runs", f"{model.hash},{checkpoint.hash}", "--cost", "--format", "csv")
                              .stdout.splitlines())  # fmt: skip
    assert float(row["seconds"]) > 0 and row["gflop"] == "" and row["run_seed"] == ""
    assert "say what to evaluate" in call("eval").stderr
    assert "Did you mean 'float32'?" in call(*words[:-1], "float3").stderr


# ---- export ----
@pytest.mark.parametrize(("family", "mode", "outside"), [("clip", "pad", True), ("siglip", "crop", False)])
def test_a_checkpoint_becomes_a_stock_llava_with_its_logits(
    tmp_path: Path, family: str, mode: str, outside: bool
) -> None:
    checkpoint = make_checkpoint(tmp_path, family, outside, mode)
    said = export_llava(checkpoint, tmp_path / "llava")
    assert "logits of 3 images differ by at most" in said
    config = json.loads((tmp_path / "llava" / "config.json").read_text())
    assert config["architectures"] == ["LlavaForConditionalGeneration"]
    assert config["vision_feature_select_strategy"] == ("default" if family == "clip" else "full")
    assert not list(tmp_path.glob(".llava*"))
    with pytest.raises(UserError, match="is there already"):
        export_llava(checkpoint, tmp_path / "llava")
    if outside:
        made = json.loads((tmp_path / "llava" / "generation_config.json").read_text())
        assert made["suppress_tokens"] == [config["image_token_index"]]


def with_begin(tokenizer: Any) -> Any:
    """A tokenizer that adds its begin token to whatever it is given."""
    begin = tokenizer.bos_token
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=[begin, "$A"], pair=[begin, "$A", "$B"], special_tokens=[(begin, tokenizer.bos_token_id)]
    )
    return tokenizer


@pytest.mark.parametrize("adds", [True, False])
@pytest.mark.parametrize("template", ["vicuna_v1", "llama_3", "chatml_direct"])
def test_an_export_has_the_begin_token_once(template: str, adds: bool, tmp_path: Path) -> None:
    from transformers import AutoProcessor

    checkpoint = make_checkpoint(tmp_path, template="llama_3")
    model = load_checkpoint(checkpoint)
    model.config.template = template
    tokenizer = model.tokenizer
    if adds:
        with_begin(tokenizer)
    save_checkpoint(model, tmp_path / "saved")
    export_llava(tmp_path / "saved", tmp_path / "llava")
    words = PromptTokens(tokenizer, template)
    before, behind = (ids for ids, _ in words.encode(words.chunks(prompt_parts(template, "Which?", 1))))
    expected = [*before, *[model.config.image_token_id] * 16, *behind]
    assert expected.count(tokenizer.bos_token_id) == (template != "chatml_direct")
    processor = AutoProcessor.from_pretrained(tmp_path / "llava")
    asked = processor(text=render(template, "Which?", 1), images=make_image(0))
    assert list(asked["input_ids"][0]) == expected
    content = [{"type": "image", "image": make_image(0)}, {"type": "text", "text": "Which?"}]
    messages = [{"role": "user", "content": content}]
    told = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=True)
    assert list(told["input_ids"][0]) == expected
    said = (tmp_path / "llava" / "README.md").read_text()
    assert f"`{template}`" in said and "`<image >`" in said


def test_an_export_whose_tokens_differ_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mllm_eval.model import export

    checkpoint = make_checkpoint(tmp_path)
    monkeypatch.setattr(export, "stock_tokenizer", lambda model: with_begin(model.tokenizer))
    with pytest.raises(UserError, match="other ones from token 1 on"):
        export_llava(checkpoint, tmp_path / "llava")
    assert not (tmp_path / "llava").exists()


def test_an_inner_layer_is_the_same_layer(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path, encoder={"feature_layer": -2})
    assert "logits" in export_llava(checkpoint, tmp_path / "llava")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"family": "dinov2", "encoder": {"norm": True}}, "it takes features before the final norm"),
        ({"tokens": 9}, "it can't resize the 4 x 4 patches to the budget of 9 tokens; only tokens: 16 could be said"),
        ({"standardize": True}, "it can't standardise the projector's input"),
        ({"projector": "mlp3x_gelu"}, "its projector is mlp2x_gelu, this one is mlp3x_gelu"),
    ],
)
def test_what_llava_cannot_say_is_said_why(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    checkpoint = make_checkpoint(tmp_path, **changes)
    with pytest.raises(UserError, match=reason):
        export_llava(checkpoint, tmp_path / "llava")
    assert not (tmp_path / "llava").exists()


def test_an_export_that_differs_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mllm_eval.model import export

    checkpoint = make_checkpoint(tmp_path)
    original = export.as_llava

    def spoilt(model: Any) -> Any:
        llava = original(model)
        with torch.no_grad():
            llava.model.multi_modal_projector.linear_1.bias.add_(0.5)
        return llava

    monkeypatch.setattr(export, "as_llava", spoilt)
    with pytest.raises(UserError, match="its logits differ by"):
        export_llava(checkpoint, tmp_path / "llava")
    assert not (tmp_path / "llava").exists()


def test_the_run_that_is_exported_is_named(external_home: Path) -> None:
    missing = CliRunner().invoke(app, ["export", "nothing", "--to", "x"])
    assert missing.exit_code == 2
    assert "no run 'nothing'" in missing.stderr


# ---- data ----
def test_missing_data_are_rendered_before_a_model_is_asked(
    external_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLLM_EVAL_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("MLLM_EVAL_RESULTS", str(tmp_path / "results"))

    def render(data: Path, _: object) -> None:
        shutil.copytree(external_home / "data" / "easy-vqa", data / "easy-vqa")

    monkeypatch.setattr(sources, "sources", lambda: {"easy-vqa": sources.MadeFolder(make="here:render", whole="data")})
    monkeypatch.setitem(sys.modules, "here", SimpleNamespace(render=render))  # type: ignore[arg-type]
    answers = read_answers(ask(external_home / "llava").answers_path("easy_vqa"))
    assert len(answers) == 9 and all(one.state == "ok" for one in answers)

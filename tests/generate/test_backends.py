"""One flow above four backends: a question is read, rendered and tokenised once, and asked once, whoever answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, overload

import pytest
import torch
from external_models import QUESTIONS, a_request, ask
from hypothesis import given, settings
from planned_requests import LIMITS, REQUESTS
from pretend_server import Fake, a_server
from tasks import a_backend, a_task
from tiny_generation import TEMPLATE, Images, Tiny, a_sample, mixed_samples

from mllm_eval.answers import Journal, read_answers
from mllm_eval.catalog import load_benchmark
from mllm_eval.catalog.variant import BLIND, DEFAULT, VariantKey
from mllm_eval.data.samples import Sample
from mllm_eval.data.snapshots import load_samples
from mllm_eval.distributed import Share
from mllm_eval.errors import UserError
from mllm_eval.generate import Hooks, Limits, Request, Task, TemplateFormat, answer_tasks, request
from mllm_eval.generate.batching import Lengths, plan
from mllm_eval.generate.request import write_request
from mllm_eval.generate.stock import StockModel
from mllm_eval.pipeline import inference
from mllm_eval.pipeline.inference import Inference
from mllm_eval.pipeline.ledger import Ledger
from mllm_eval.pipeline.reporter import Silent
from mllm_eval.prompts import PromptTokens


def requests_of(samples: Sequence[Sample], longest: int = 12) -> list[Request]:
    return [write_request(one, TemplateFormat(TEMPLATE), longest) for one in samples]


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["batched", "reference", "server"])
def test_a_backend_answers_any_list_of_requests_in_its_order(engine: str, held: tuple[Tiny, Fake]) -> None:
    model, fake = held
    world = Images(broken="image1")
    requests = requests_of(mixed_samples(world))
    backend = a_backend(model, TEMPLATE, world, a_server(fake) if engine == "server" else engine)
    expected = a_backend(model, TEMPLATE, world, "reference").generate(requests)
    assert [one.id for one in expected] == [one.id for one in requests]
    assert len({one.text for one in expected}) > 10 and any(one.state == "error" for one in expected)
    assert backend.generate(requests) == expected
    assert backend.generate(requests[::-3]) == expected[::-3]
    planned = [one for batch in backend.plan(requests, backend.limits) for one in batch.requests]
    assert sorted(map(id, planned)) == sorted(map(id, requests))


@pytest.mark.slow
def test_a_stock_model_answers_any_list_of_requests_in_its_order(external_home: Path) -> None:
    model = StockModel(external_home / "llava", "float32", "cpu", batch=2)
    samples = load_samples(load_benchmark("easy_vqa"), "easy-vqa")
    blind = [replace(sample, images=()) for sample in samples[:3]]
    requests = [a_request(one, 8) for one in [samples[0], blind[0], samples[1], *blind[1:], *samples[2:4]]]
    together = model.generate(requests)
    assert [one.id for one in together] == [one.id for one in requests]
    assert together == [model.generate([one])[0] for one in requests]


@pytest.mark.slow
@settings(deadline=None, max_examples=150)
@given(requests=REQUESTS, limits=LIMITS)
def test_the_requests_of_a_planned_batch_are_planned_as_that_batch(requests: list[Lengths], limits: Limits) -> None:
    for batch in plan(requests, limits):
        assert plan([requests[number] for number in batch.requests], limits) == [batch]


class Counted(Sequence[Sample]):
    """Samples that count how often each is made."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.samples, self.made = samples, Counter[str]()

    def __len__(self) -> int:
        return len(self.samples)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self[number] for number in range(len(self))[index]]
        sample = self.samples[index]
        self.made[sample.id] += 1
        return sample

    def __iter__(self) -> Iterator[Sample]:
        return (self[number] for number in range(len(self)))


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> dict[str, Counter[Any]]:
    """How often each question was rendered, and each text tokenised."""
    found: dict[str, Counter[Any]] = {"rendered": Counter(), "tokenised": Counter()}
    render, encode = request.prompt_parts, PromptTokens.encode

    def rendered(template: str, user: str, images: int) -> Any:
        found["rendered"][user] += 1
        return render(template, user, images)

    def encoded(self: PromptTokens, chunks: Any) -> Any:
        found["tokenised"].update(chunks)
        return encode(self, chunks)

    monkeypatch.setattr(request, "prompt_parts", rendered)
    monkeypatch.setattr(PromptTokens, "encode", encoded)
    return found


class Source:
    """A run's backend without a run."""

    prompts, positions = TemplateFormat(TEMPLATE), None

    def __init__(self, model: Tiny) -> None:
        self.model, self.loaded = model, 0

    def load(self) -> Any:
        self.loaded += 1
        return a_backend(self.model, TEMPLATE, Images(), "batched", Limits(rows=4))

    def missing_features(self, images: Any) -> set[str]:
        return {image.sha256 for image in images}

    def encode(self, images: Any, progress: Any, broken: Any) -> None:
        assert len({image.sha256 for image in images}) == len(images)


@pytest.mark.slow
def test_a_question_is_read_rendered_and_tokenised_once_on_its_way(
    counts: dict[str, Counter[Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(1)
    seen = [a_sample(f"s{n}", [f"image{n % 3}"], f"Which of {n}?") for n in range(9)]
    asked = {
        DEFAULT: Counted(seen),
        VariantKey("circular"): Counted([replace(one, prompt=f"{one.prompt} Or not?") for one in seen]),
        BLIND: Counted([replace(one, images=(), prompt=f"Unseen: {one.prompt}") for one in seen]),
    }
    monkeypatch.setattr(inference, "asked_samples", lambda benchmark, data, variant: asked[variant])
    benchmark: Any = SimpleNamespace(name="mme", generation=SimpleNamespace(max_new_tokens=6))
    row: Any = SimpleNamespace(
        data="mini", answers_path=lambda name, variant=DEFAULT: tmp_path / f"{name}.{variant}.jsonl"
    )
    source, told = Source(Tiny().double()), []
    work = Inference(row, source, Ledger(tmp_path, Silent()), Share())
    work.answer([(benchmark, variant) for variant in asked], lambda _, variant, samples: told.append(variant))
    assert told == [*asked] and source.loaded == 1
    for samples in asked.values():
        assert samples.made == dict.fromkeys((one.id for one in seen), 1)
    assert set(counts["rendered"].values()) == {1} and len(counts["rendered"]) == 27
    # Before an image all prompts have the same text.
    assert set(counts["tokenised"].values()) == {1} and len(counts["tokenised"]) == 28
    # The same again: whether anything is to be asked takes one look, and no model.
    work.answer([(benchmark, variant) for variant in asked], lambda _, variant, samples: told.append(variant))
    assert source.loaded == 1 and len(told) == 6
    assert set(counts["rendered"].values()) == {2} and set(counts["tokenised"].values()) == {1}
    for samples in asked.values():
        assert set(samples.made.values()) == {2}


def test_broken_off_no_question_is_rendered_twice_in_the_second_run(
    counts: dict[str, Counter[Any]], tmp_path: Path
) -> None:
    samples = mixed_samples()
    model = Tiny().double()

    def stop(done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    for hooks in (Hooks(progress=stop), Hooks()):
        counts["rendered"].clear()
        counts["tokenised"].clear()
        task = a_task(samples, 6, Journal(tmp_path / "a.jsonl"))
        try:
            answer_tasks(a_backend(model, TEMPLATE, Images(), "batched", Limits(rows=4)), [task], hooks)
        except KeyboardInterrupt:
            assert not task.journal.complete
    assert task.journal.complete
    rendered = Counter(sample.prompt for sample in samples)
    assert counts["rendered"] == rendered and set(counts["tokenised"].values()) == {1}


# ---- external models, by the same flow ----
@pytest.mark.slow
def test_an_external_model_is_asked_any_variant(external_home: Path) -> None:
    model = ask(external_home / "llava", variants=["shuffled"])
    plain, shuffled = (read_answers(model.answers_path("easy_vqa", name)) for name in (DEFAULT, VariantKey("shuffled")))
    assert [one.id for one in plain] == [one.id for one in shuffled]
    assert [one.prompt for one in plain] == [one.prompt for one in shuffled]
    assert all(one.images != other.images for one, other in zip(plain, shuffled, strict=True))
    assert model.summary_path("easy_vqa", "cambrian", VariantKey("shuffled")).is_file()
    with pytest.raises(UserError, match="no benchmark asked has a variant 'circle'"):
        ask(external_home / "llava", variants=["circle"])


@pytest.mark.slow
def test_an_external_model_answers_a_question_once_wherever_it_stands(external_home: Path, tmp_path: Path) -> None:
    samples = load_samples(load_benchmark("easy_vqa"), "easy-vqa")
    again = [replace(one, benchmark="other", id=f"other-{one.id}") for one in samples]
    model = StockModel(external_home / "llava", "float32", "cpu")
    asked = count_questions(model)
    tasks = [
        Task(part, 8, Journal(tmp_path / f"{name}.jsonl"), request.ChatFormat(), name)
        for name, part in (("one", samples), ("other", again))
    ]
    answer_tasks(model, tasks)
    assert sum(asked) == QUESTIONS
    one, other = (read_answers(task.journal.path) for task in tasks)
    assert other == [replace(answer, id=f"other-{answer.id}") for answer in one]


@pytest.mark.slow
def test_an_external_models_subset_is_part_of_its_whole(external_home: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("MLLM_EVAL_RESULTS", str(tmp_path))
    part = ask(external_home / "llava", subset=4)
    (path,) = (part.folder / "answers").glob("easy_vqa.*.jsonl")
    asked: list[int] = []
    plain = StockModel.generate

    def counted(self: StockModel, requests: Any) -> Any:
        asked.append(len(requests))
        return plain(self, requests)

    monkeypatch.setattr(StockModel, "generate", counted)
    whole = {one.id: one for one in read_answers(ask(external_home / "llava").answers_path("easy_vqa"))}
    subset = read_answers(path)
    assert sum(asked) == QUESTIONS - len(subset) > 0 and all(whole[one.id] == one for one in subset)


@pytest.mark.slow
@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_an_external_model_is_asked_fewer_at_a_time_where_memory_runs_out(
    error: BaseException, external_home: Path, tmp_path: Path
) -> None:
    samples = load_samples(load_benchmark("easy_vqa"), "easy-vqa")
    model = StockModel(external_home / "llava", "float32", "cpu", batch=4)
    asked = count_questions(model, most=1, error=error)
    said: list[str] = []
    task = Task(samples, 8, Journal(tmp_path / "small.jsonl"), request.ChatFormat())
    answer_tasks(model, [task], Hooks(say=said.append))
    assert said == [f"memory ran out: from here on {rows} questions at a time" for rows in (2, 1)]
    assert asked == [4, 2, *[1] * QUESTIONS]
    alone = StockModel(external_home / "llava", "float32", "cpu")
    expected = alone.generate([a_request(one, 8) for one in samples])
    assert read_answers(task.journal.path) == expected
    model.limits = Limits(rows=1)
    count_questions(model, most=0, error=error)
    task = Task(samples, 8, Journal(tmp_path / "none.jsonl"), request.ChatFormat())
    with pytest.raises(UserError, match="memory ran out on a single question; give the model a device with more"):
        answer_tasks(model, [task])


def count_questions(model: StockModel, most: int = 99, error: BaseException | None = None) -> list[int]:
    """How many questions go through the model at a time, from now on; there is memory for `most`."""
    generate, asked = model.model.generate, []

    def counted(**inputs: Any) -> Any:
        asked.append(len(inputs["input_ids"]))
        if asked[-1] > most and error:
            raise error
        return generate(**inputs)

    model.model.generate = counted
    return asked

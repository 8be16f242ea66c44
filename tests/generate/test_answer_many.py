"""Several benchmarks and variants in one plan: what is answered together, in which order, and what memory bounds."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tasks import a_task, answer_many
from tiny_generation import TEMPLATE, Images, Tiny, a_sample
from transformers import LlamaConfig, LlamaForCausalLM

from mllm_eval.answers import Answer, Journal, read_answers
from mllm_eval.data.samples import Sample
from mllm_eval.errors import UserError
from mllm_eval.generate import Limits, Request, Task, TemplateFormat, answer_tasks, group_by_images
from mllm_eval.generate.backend import Batch
from mllm_eval.generate.backoff import (
    Backoff,
    available_memory,
    free_bytes,
    kept_limits,
    limits_within,
    ran_out,
    token_bytes,
)
from mllm_eval.generate.batching import Lengths, plan
from mllm_eval.generate.request import write_request


@pytest.fixture(scope="module")
def model() -> Tiny:
    torch.set_num_threads(1)
    return Tiny().double()


def an_asked(folder: Path, name: str, samples: Sequence[Sample], longest: int = 6) -> Task:
    return a_task(samples, longest, Journal(folder / f"{name}.jsonl"), name)


def some(folder: Path) -> list[Task]:
    """A benchmark with and without a hint on the same images, one on others without images, and one on its own."""
    hinted = [a_sample(f"s{n}", [f"image{n % 3}"], f"Which of {n}? " + "Hint. " * (n % 4)) for n in range(9)]
    plain = [replace(sample, prompt=f"Which of {n}? ") for n, sample in enumerate(hinted)]
    blind = [replace(sample, images=()) for sample in hinted]
    other = [a_sample(f"o{n}", [f"other{n % 2}"], "How many? " * (n + 1)) for n in range(4)]
    return [
        an_asked(folder, "hinted", hinted, 6),
        an_asked(folder, "blind", blind, 6),
        an_asked(folder, "plain", plain, 6),
        an_asked(folder, "other", other, 3),
    ]


def test_what_shares_images_is_one_part_in_the_order_asked(tmp_path: Path) -> None:
    asked = some(tmp_path)
    assert [[one.name for one in part] for part in group_by_images(asked)] == [
        ["hinted", "plain"],
        ["blind"],
        ["other"],
    ]
    bridge = an_asked(tmp_path, "bridge", [a_sample("b", ["image1", "other0"], "?")])
    parts = [[one.name for one in part] for part in group_by_images([*asked, bridge])]
    assert parts == [["hinted", "plain", "other", "bridge"], ["blind"]]
    assert group_by_images([]) == []


def test_each_is_external_model_as_soon_as_its_part_is_answered(model: Tiny, tmp_path: Path) -> None:
    asked, told, steps = some(tmp_path), [], []

    def finished(one: Task) -> None:
        told.append((one.name, [other.name for other in asked if other.journal.complete]))

    answer_many(model, asked, TEMPLATE, Images(), lambda *step: steps.append(step), finished=finished)
    assert told == [
        ("hinted", ["hinted"]),
        ("plain", ["hinted", "plain"]),
        ("blind", ["hinted", "blind", "plain"]),
        ("other", ["hinted", "blind", "plain", "other"]),
    ]
    assert steps == sorted(steps) and steps[-1] == (31, 31)


def test_alone_or_with_others_the_bytes_are_the_same(model: Tiny, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    answer_many(model, some(tmp_path), TEMPLATE, Images())
    for number in (1, 3):
        answer_many(model, [some(tmp_path / "one")[number]], TEMPLATE, Images())
    for name in ("blind", "other"):
        assert (tmp_path / f"{name}.jsonl").read_bytes() == (tmp_path / "one" / f"{name}.jsonl").read_bytes()


def test_an_image_is_prefilled_once_for_all_variants_and_same_questions_are_asked_once(
    model: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mllm_eval.generate import engine

    rows: list[tuple[int, int]] = []
    plain = engine.answer_batch

    def noted(model: Any, batch: Any, *rest: Any) -> dict[int, list[int]]:
        rows.append((len(batch.prefixes), sum(map(len, batch.blocks))))
        return plain(model, batch, *rest)

    monkeypatch.setattr(engine, "answer_batch", noted)
    asked = some(tmp_path)
    answer_many(model, [asked[0], asked[2]], TEMPLATE, Images())
    # Three images, nine hinted questions; of the nine plain ones the three without a hint are the same.
    assert rows == [(3, 15)]
    hinted, bare = (read_answers(one.journal.path) for one in (asked[0], asked[2]))
    for n in (0, 4, 8):
        assert (hinted[n].text, hinted[n].prompt) == (bare[n].text, bare[n].prompt)


class Killed(BaseException):
    pass


def test_killed_anywhere_several_end_with_the_same_bytes(
    model: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    limits = Limits(rows=4)
    answer_many(model, some(tmp_path / "whole"), TEMPLATE, Images(), limits=limits)
    calls, deadly = 0, 0
    append, finish = Journal.append, Journal.finish

    def dying(method: Callable[..., None]) -> Callable[..., None]:
        def call(self: Journal, what: Any) -> None:
            nonlocal calls
            calls += 1
            method(self, what)
            if calls == deadly:
                raise Killed

        return call

    monkeypatch.setattr(Journal, "append", dying(append))
    monkeypatch.setattr(Journal, "finish", dying(finish))
    while not all(one.journal.complete for one in some(tmp_path / "killed")):
        deadly, calls = deadly + 1, 0
        with suppress(Killed):
            answer_many(model, some(tmp_path / "killed"), TEMPLATE, Images(), limits=limits)
    assert deadly >= 5
    for path in (tmp_path / "whole").iterdir():
        assert path.read_bytes() == (tmp_path / "killed" / path.name).read_bytes()


@pytest.mark.slow
@settings(deadline=None, max_examples=25)
@given(
    shapes=st.lists(
        st.lists(st.tuples(st.integers(1, 20), st.lists(st.sampled_from("abc"), max_size=2)), max_size=5),
        min_size=1,
        max_size=3,
    ),
    longest=st.lists(st.integers(1, 7), min_size=3, max_size=3),
    limits=st.builds(Limits, st.integers(1, 600), st.integers(1, 6), st.integers(1, 200), st.integers(0, 60)),
    variants=st.booleans(),
)
def test_any_benchmarks_and_variants_give_the_references_answers(
    model: Tiny,
    tmp_path_factory: pytest.TempPathFactory,
    shapes: list[list[tuple[int, list[str]]]],
    longest: list[int],
    limits: Limits,
    variants: bool,
) -> None:
    folder = tmp_path_factory.mktemp("any")

    def asked(engine: str) -> list[Task]:
        found = []
        for at, (shape, limit) in enumerate(zip(shapes, longest, strict=False)):
            samples = [
                a_sample(f"s{n}", images, "".join(chr(97 + (n * 5 + i * i) % 26) for i in range(length)))
                for n, (length, images) in enumerate(shape)
            ]
            found.append(a_task(samples, limit, Journal(folder / f"{engine}{at}.jsonl")))
            if variants:
                blind = [replace(sample, images=()) for sample in samples]
                bare = [replace(sample, prompt=sample.prompt[:5]) for sample in samples]
                found.append(a_task(blind, limit, Journal(folder / f"{engine}{at}.blind.jsonl")))
                found.append(a_task(bare, limit, Journal(folder / f"{engine}{at}.bare.jsonl")))
        return found

    batched, reference = asked("batched"), asked("reference")
    with pytest.MonkeyPatch.context() as patch:
        # Hundreds of appends: that they reach the disk is not what is tested.
        patch.setattr("mllm_eval.answers.os.fsync", lambda file: None)
        answer_many(model, batched, TEMPLATE, Images(), limits=limits)
        answer_many(model, reference, TEMPLATE, Images(), engine="reference")
    for one, other in zip(batched, reference, strict=True):
        assert one.journal.path.read_bytes() == other.journal.path.read_bytes()


class Small:
    """Memory for so many tokens in one pass."""

    def __init__(self, model: Tiny, tokens: int, error: type[BaseException], text: str) -> None:
        self.tokens, self.error, self.text = tokens, error, text
        self.refused = 0
        self.passes: list[int] = []
        self.hook = model.llm.model.layers[0].register_forward_pre_hook(self.check)

    def check(self, module: Any, args: tuple[torch.Tensor, ...]) -> None:
        size = args[0].shape[0] * args[0].shape[1]
        self.passes.append(size)
        if size > self.tokens:
            self.refused += 1
            raise self.error(self.text)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (torch.OutOfMemoryError, "CUDA out of memory. Tried to allocate 2.00 GiB"),
        (RuntimeError, "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried to"),
        (RuntimeError, "not enough memory: you tried to allocate 1 bytes"),
        (MemoryError, ""),
    ],
)
def test_where_memory_runs_out_batches_are_halved_and_nothing_is_restarted(
    model: Tiny, tmp_path: Path, error: type[BaseException], text: str
) -> None:
    for name in ("plenty", "little"):
        (tmp_path / name).mkdir()
    answer_many(model, some(tmp_path / "plenty"), TEMPLATE, Images())
    memory, said, steps = Small(model, 500, error, text), [], []
    try:
        answer_many(model, some(tmp_path / "little"), TEMPLATE, Images(), lambda *s: steps.append(s), say=said.append)
    finally:
        memory.hook.remove()
    assert 1 <= memory.refused == len(said) <= 4
    assert said[0] == "memory ran out: from here on 32 questions at a time, and half the tokens"
    assert steps == sorted(steps) and steps[-1] == (31, 31)
    for path in (tmp_path / "plenty").iterdir():
        assert path.read_bytes() == (tmp_path / "little" / path.name).read_bytes()


def test_memory_for_no_question_at_all_is_said_and_other_errors_go_through(model: Tiny, tmp_path: Path) -> None:
    memory = Small(model, 3, MemoryError, "")
    try:
        with pytest.raises(UserError, match=r"memory ran out on a single question of \d+ tokens"):
            answer_many(model, some(tmp_path), TEMPLATE, Images())
        memory.error, memory.text = RuntimeError, "shapes do not match"
        with pytest.raises(RuntimeError, match="shapes do not match"):
            answer_many(model, some(tmp_path), TEMPLATE, Images())
    finally:
        memory.hook.remove()
    assert not ran_out(ValueError("no"))


class Counting:
    """A backend of questions on one image, with memory for two at a time."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.asked: list[int] = []

    def plan(self, requests: Sequence[Request], limits: Limits) -> list[Batch]:
        batches = plan([Lengths(n, 2, 10, 5, 4) for n in range(len(requests))], limits)
        return [Batch(tuple(requests[n] for n in batch.requests), batch.work) for batch in batches]

    def count_tokens(self, request: Request) -> int:
        return 15

    def generate(self, requests: Sequence[Request]) -> list[Answer]:
        self.asked.append(len(requests))
        if len(requests) > 2:
            raise MemoryError
        return [request.answer("yes", 15, 1) for request in requests]


def test_a_batch_far_below_the_limits_is_halved_too() -> None:
    requests = [write_request(a_sample(str(n), [], "?"), TemplateFormat(TEMPLATE), 4) for n in range(6)]
    backend: Any = Counting(Limits())
    (batch,) = backend.plan(requests, Limits())
    answers = Backoff(backend).generate(batch.requests)
    assert [one.id for one in answers] == [str(n) for n in range(6)]
    assert backend.asked == [6, 3, 1, 1, 1, 3, 1, 1, 1]
    assert backend.limits == Limits(tokens=4096, rows=8, pass_tokens=512)


def test_after_memory_ran_out_later_batches_are_planned_smaller_at_once() -> None:
    requests = [write_request(a_sample(str(n), [], "?"), TemplateFormat(TEMPLATE), 4) for n in range(4)]
    backend: Any = Counting(Limits(rows=4))
    backoff = Backoff(backend)
    for asked in ([4, 2, 2], [2, 2]):
        backend.asked.clear()
        assert [one.id for one in backoff.generate(requests)] == ["0", "1", "2", "3"]
        assert backend.asked == asked


def test_images_of_the_next_batch_load_while_a_batch_is_computed(tmp_path: Path) -> None:
    class Ordered(Counting):
        """Keeps what it is called for, in order."""

        def __init__(self, limits: Limits) -> None:
            super().__init__(limits)
            self.called: list[str] = []

        def prefetch(self, requests: Sequence[Request]) -> None:
            self.called.append("prefetch " + " ".join(one.id for one in requests))

        def generate(self, requests: Sequence[Request]) -> list[Answer]:
            self.called.append("generate " + " ".join(one.id for one in requests))
            return super().generate(requests)

    backend: Any = Ordered(Limits(rows=2))
    answer_tasks(backend, [an_asked(tmp_path, "b", [a_sample(str(n), ["i"], f"{n}?") for n in range(6)])])
    first, second, third = ("0 1", "2 3", "4 5")
    assert backend.called == [
        f"prefetch {first}", f"prefetch {second}", f"generate {first}",
        f"prefetch {third}", f"generate {second}", f"generate {third}",
    ]  # fmt: skip


def test_limits_follow_from_bytes() -> None:
    assert limits_within(10**12, 1000) == Limits()
    assert limits_within(2 * 1000 * 5000, 1000) == Limits(tokens=4096)
    assert limits_within(2 * 1000 * 5100, 1000) == Limits(tokens=4096)
    assert limits_within(0, 1000) == Limits(tokens=1)
    more = limits_within(2 * 1000 * 200_000, 1000, more=True)
    assert (more.tokens, more.rows) == (131072, 256)
    # 3 layers, keys and values of 2 heads of 8 numbers, 8 bytes each
    assert token_bytes(Tiny().double().llm) == 3 * 2 * 2 * 8 * 8
    wide = LlamaConfig(hidden_size=32, num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=3, head_dim=16,
                       intermediate_size=8, vocab_size=8)  # fmt: skip
    assert token_bytes(LlamaForCausalLM(wide)) == 3 * 2 * 2 * 16 * 4


def test_free_memory_is_what_the_cgroup_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mllm_eval.generate.backoff.CGROUP", tmp_path)
    monkeypatch.setattr("mllm_eval.generate.backoff.available_memory", lambda: 1000)
    assert free_bytes("cpu") == 1000
    (tmp_path / "memory.stat").write_text("anon 300\nfile 50\n")
    for most, free in (("max", 1000), ("700", 400), ("5000", 1000), ("200", 0)):
        (tmp_path / "memory.max").write_text(f"{most}\n")
        assert free_bytes("cpu") == free


def test_available_memory_is_what_linux_says_else_half_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    half = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    for told, memory in (("MemTotal: 100 kB\nMemFree: 1 kB\nMemAvailable: 60 kB\n", 60 * 1024), ("odd\n", half)):
        monkeypatch.setattr(Path, "read_text", lambda *_, told=told: told)
        assert available_memory() == memory


def test_a_run_keeps_the_limits_it_was_planned_with(
    model: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "limits.json"
    monkeypatch.setattr("mllm_eval.generate.backoff.free_bytes", lambda device: 2 * 2 * 768 * 1000)
    assert kept_limits(path, model) == Limits(tokens=512)
    monkeypatch.setattr("mllm_eval.generate.backoff.free_bytes", lambda device: 10**12)
    assert kept_limits(path, model) == Limits(tokens=512)
    for damaged in ('{"tokens": "many"}', '{"tokens": 0}'):
        path.write_text(damaged)
        assert kept_limits(path, model) == Limits() == kept_limits(path, model)
    path.write_text('{"rows": 1}')
    assert kept_limits(path, model) == Limits(rows=1)
    monkeypatch.setenv("MLLM_EVAL_ANSWERS_BYTES", "200MB")
    assert kept_limits(path, model) == Limits(tokens=65536, rows=128)
    monkeypatch.setenv("MLLM_EVAL_ANSWERS_BYTES", "much")
    with pytest.raises(UserError, match=r"MLLM_EVAL_ANSWERS_BYTES='much': write a size such as 200GB or 1\.5TB"):
        kept_limits(path, model)

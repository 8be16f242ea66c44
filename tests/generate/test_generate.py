from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from planned_requests import LIMITS, REQUESTS
from tasks import answer, pending
from tiny_generation import TEMPLATE, Images, Tiny, a_sample, answers_of, mixed_samples
from torch import Tensor

from mllm_eval.answerlines import read_answers
from mllm_eval.answers import Answer, Journal
from mllm_eval.data.samples import ImageRef
from mllm_eval.generate import Limits
from mllm_eval.generate.attention import SharedPrefixes, Span, attend, attend_by_products, attend_to_both, spans
from mllm_eval.generate.batching import Lengths, plan
from mllm_eval.model.internals import KeyValues


@pytest.fixture(scope="module")
def model() -> Tiny:
    torch.set_num_threads(1)
    # In float64, so that no two tokens are so close that another order of sums could choose the other one.
    return Tiny().double()


@pytest.fixture(scope="module")
def expected(model: Tiny, tmp_path_factory: pytest.TempPathFactory) -> list[Answer]:
    path = tmp_path_factory.mktemp("reference") / "a.jsonl"
    return answers_of(model, mixed_samples(), path, engine="reference")


@pytest.mark.slow
def test_the_reference_is_transformers_own_greedy_generation(model: Tiny, expected: list[Answer]) -> None:
    for sample, given_answer in zip(mixed_samples(), expected, strict=True):
        features = {
            image.sha256: grid for image, grid in zip(sample.images, Images()(list(sample.images)), strict=True)
        }
        user = "<image>\n" * len(sample.images) + sample.prompt
        text = (
            f"<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n{user}<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n"
        )
        parts = []
        for chunk, image in zip(text.split("<image>", len(sample.images)), (*sample.images, None), strict=True):
            ids = torch.tensor(
                [token for part in re.split("(?<=<image)", chunk) for token in model.tokenizer.ids(part)]
            )
            parts.append(model.llm.get_input_embeddings()(ids))
            if image:
                parts.append(model.embed(features[image.sha256][None])[0])
        inputs = torch.cat(parts)[None]
        out = model.llm.generate(
            inputs_embeds=inputs, max_new_tokens=12, do_sample=False, eos_token_id=15, pad_token_id=0
        )
        assert given_answer.text == model.tokenizer.decode(out[0].tolist(), skip_special_tokens=True).strip()
        assert given_answer.tokens_in == inputs.shape[1]
        assert given_answer.tokens_out == out.shape[1]


@pytest.mark.slow
def test_the_fixture_tells_answers_apart(expected: list[Answer]) -> None:
    assert len({answer.text for answer in expected}) > 15
    assert len({answer.tokens_out for answer in expected}) > 4


@pytest.mark.slow
@pytest.mark.parametrize("limits", [Limits(), Limits(rows=3, pass_cost=0), Limits(tokens=200), Limits(tokens=1)])
def test_the_engine_answers_as_the_reference(
    model: Tiny, expected: list[Answer], tmp_path: Path, limits: Limits
) -> None:
    assert answers_of(model, mixed_samples(), tmp_path / "a.jsonl", limits=limits) == expected


@pytest.mark.slow
@settings(deadline=None, max_examples=40)
@given(
    shapes=st.lists(
        st.tuples(st.integers(1, 30), st.lists(st.sampled_from("abc"), max_size=2)), min_size=1, max_size=9
    ),
    tokens=st.integers(1, 600),
    rows=st.integers(1, 6),
    pass_tokens=st.integers(1, 200),
    pass_cost=st.integers(0, 60),
    longest=st.integers(1, 9),
    template=st.sampled_from(["llama_3_meta", "vicuna_v1"]),
)
def test_any_grouping_gives_the_references_answers(
    model: Tiny,
    tmp_path_factory: pytest.TempPathFactory,
    shapes: list[tuple[int, list[str]]],
    tokens: int,
    rows: int,
    pass_tokens: int,
    pass_cost: int,
    longest: int,
    template: str,
) -> None:
    samples = [
        a_sample(f"s{n}", images, "".join(chr(97 + (n * 5 + i * i) % 26) for i in range(length)))
        for n, (length, images) in enumerate(shapes)
    ]
    folder = tmp_path_factory.mktemp("any")
    limits = Limits(tokens, rows, pass_tokens, pass_cost)
    both = [
        answer(model, samples, template, Images(), longest, Journal(folder / engine), None, engine, limits)
        for engine in ("batched", "reference")
    ]
    assert both[0] == both[1]
    assert (folder / "batched").read_bytes() == (folder / "reference").read_bytes()


@pytest.mark.slow
@settings(deadline=None, max_examples=200)
@given(requests=REQUESTS, limits=LIMITS)
def test_a_plan_holds_each_request_once_and_stays_within_its_limits(requests: list[Lengths], limits: Limits) -> None:
    batches = plan(requests, limits)
    assert sorted(number for batch in batches for number in batch.requests) == list(range(len(requests)))
    for batch in batches:
        blocks = [[requests[number] for number in block] for block in batch.blocks]
        rows = [row for block in blocks for row in block]
        assert {row.prefix for row in rows} == set(batch.prefixes) and len(set(batch.prefixes)) == len(batch.prefixes)
        (prefix_length,) = {row.prefix_tokens for row in rows}
        for block in blocks:
            lengths = [row.suffix_tokens for row in block]
            assert lengths == sorted(lengths)
            assert len(block) == 1 or len(block) * lengths[-1] <= limits.pass_tokens
            held = len(batch.prefixes) * prefix_length + len(block) * (lengths[-1] + max(row.longest for row in block))
            assert len(rows) == 1 or (len(rows) <= limits.rows and held <= limits.tokens)
        assert batch.work >= len(batch.prefixes) * prefix_length + sum(row.suffix_tokens + 1 for row in rows)


def test_an_image_is_prefilled_once_for_all_its_questions(model: Tiny, tmp_path: Path) -> None:
    samples = [a_sample(f"s{n}", [f"image{n % 3}"], "Is it so?" + "?" * n) for n in range(30)]
    widths: list[tuple[int, ...]] = []
    hook = model.llm.model.layers[0].register_forward_pre_hook(lambda _, args: widths.append(tuple(args[0].shape[:2])))
    answers_of(model, samples, tmp_path / "a.jsonl", max_new_tokens=1, limits=Limits(pass_cost=10**6))
    hook.remove()
    prefix = len(model.tokenizer.ids("<|begin_of_text|><|start_header_id|>user<|end_header_id|>__"))
    assert widths[0] == (3, prefix + model.image_tokens)
    assert [rows for rows, _ in widths] == [3, 30]


def test_rows_leave_when_they_end(model: Tiny, tmp_path: Path) -> None:
    rows: list[int] = []
    hook = model.llm.model.layers[0].register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    answers = answers_of(model, mixed_samples()[:7], tmp_path / "a.jsonl", limits=Limits(pass_cost=10**6))
    hook.remove()
    lengths = [answer.tokens_out for answer in answers]
    assert rows[2:] == [sum(length > step for length in lengths) for step in range(1, max(lengths))]


def test_logits_are_made_only_where_a_token_is_chosen(model: Tiny, tmp_path: Path) -> None:
    made: list[int] = []
    hook = model.llm.lm_head.register_forward_hook(lambda _, args, out: made.append(out[..., 0].numel()))
    answers = answers_of(model, mixed_samples(), tmp_path / "a.jsonl")
    hook.remove()
    assert sum(made) == sum(answer.tokens_out for answer in answers)


def test_the_last_layer_is_computed_only_where_a_token_is_chosen(model: Tiny, tmp_path: Path) -> None:
    made: list[int] = []
    hook = model.llm.model.layers[-1].mlp.register_forward_hook(lambda _, args, out: made.append(out[..., 0].numel()))
    answers = answers_of(model, mixed_samples(), tmp_path / "a.jsonl")
    hook.remove()
    assert sum(made) == sum(answer.tokens_out for answer in answers)


class Killed(BaseException):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("torn", [False, True])
def test_killed_anywhere_it_ends_with_the_same_bytes(
    model: Tiny, tmp_path: Path, torn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples, limits = mixed_samples(), Limits(tokens=400, rows=4)
    answers_of(model, samples, tmp_path / "whole.jsonl", limits=limits)
    path = tmp_path / "killed.jsonl"
    starts, appends, append = 0, 0, Journal.append

    def append_and_die(self: Journal, answers: Sequence[Answer]) -> None:
        nonlocal appends
        appends += 1
        append(self, answers)
        if appends == starts:
            self.part.write_bytes(self.part.read_bytes()[: -30 if torn else None])
            raise Killed

    monkeypatch.setattr(Journal, "append", append_and_die)
    while not Journal(path).complete:
        starts, appends = starts + 1, 0
        with suppress(Killed):
            answers_of(model, samples, path, limits=limits)
    assert starts > 3
    assert path.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_a_second_call_computes_nothing(model: Tiny, tmp_path: Path) -> None:
    samples, path = mixed_samples(), tmp_path / "a.jsonl"
    assert pending(samples, TEMPLATE, Journal(path)) == [sample.id for sample in samples]
    answers = answers_of(model, samples, path)
    assert pending(samples, TEMPLATE, Journal(path)) == []
    before = path.stat().st_mtime_ns
    features = Images()
    assert answers_of(None, samples, path, features=features) == answers
    assert features.read == [] and path.stat().st_mtime_ns == before
    # Rows that a benchmark has lost leave the journal, so that a score is one of the rows that are there.
    assert answers_of(None, samples[3:8], path, features=features) == answers[3:8] == read_answers(path)
    assert features.read == [] and path.stat().st_mtime_ns != before


@pytest.mark.slow
def test_only_batches_with_something_new_are_answered(model: Tiny, tmp_path: Path) -> None:
    samples, path, limits = mixed_samples(), tmp_path / "a.jsonl", Limits(rows=2)
    before = answers_of(model, samples, path, limits=limits)
    samples[0] = replace(samples[0], prompt="Is it blue?")
    assert pending(samples, TEMPLATE, Journal(path)) == ["one0"]
    features, steps = Images(), []
    after = answers_of(
        model, samples, path, limits=limits, features=features, progress=lambda *step: steps.append(step)
    )
    assert features.read == ["image0"]
    assert after[0].prompt != before[0].prompt and after[1:] == before[1:]
    assert steps[-1] == (21, 21) and steps == sorted(steps)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["batched", "reference"])
def test_a_broken_image_fails_its_samples_and_no_others(
    model: Tiny, tmp_path: Path, expected: list[Answer], engine: str
) -> None:
    path, world = tmp_path / "a.jsonl", Images(broken="image1")
    samples = mixed_samples(world)
    answers = answers_of(model, samples, path, engine=engine, features=world)
    failed = [answer for answer in answers if answer.state == "error"]
    assert {answer.id for answer in failed} == {"one1", "one5", "one9", "one13", "many0", "many1", "many2"}
    assert {answer.reason for answer in failed} == {"test.parquet row 3: image1 is no image"}
    assert {(answer.text, answer.tokens_out) for answer in failed} == {("", 0)}
    assert [a for a in answers if a.state == "ok"] == [a for a in expected if a.id not in {f.id for f in failed}]
    before = path.stat().st_mtime_ns
    assert pending(samples, TEMPLATE, Journal(path)) == []
    assert answers_of(None, samples, path, engine=engine, features=world) == answers
    assert path.stat().st_mtime_ns == before
    world.broken = ""
    assert set(pending(samples, TEMPLATE, Journal(path))) == {answer.id for answer in failed}
    assert answers_of(model, samples, path, engine=engine, features=world) == expected


def test_a_fault_of_the_code_is_no_failed_sample(model: Tiny, tmp_path: Path) -> None:
    def faulty(images: list[ImageRef]) -> list[Tensor]:
        raise TypeError("a fault")

    with pytest.raises(TypeError, match="a fault"):
        answers_of(model, mixed_samples(), tmp_path / "a.jsonl", features=faulty)
    with pytest.raises(ValueError, match="same id"):
        answers_of(model, mixed_samples() * 2, tmp_path / "a.jsonl")


def test_nothing_to_answer_is_a_finished_journal(model: Tiny, tmp_path: Path) -> None:
    assert answers_of(model, [], tmp_path / "a.jsonl") == []
    assert (tmp_path / "a.jsonl").read_bytes() == b""


@given(counts=st.lists(st.integers(0, 4), max_size=12))
def test_spans_cover_the_rows_of_every_prefix(counts: list[int]) -> None:
    prefixes = [prefix for prefix, count in enumerate(counts) for _ in range(count)]
    covered = [
        (span.row + prefix * span.each + row, span.first + prefix)
        for span in spans(prefixes)
        for prefix in range(span.count)
        for row in range(span.each)
    ]
    assert covered == list(enumerate(prefixes))


def test_prefixes_with_equally_many_rows_are_one_span() -> None:
    assert spans([0, 0, 1, 1, 2, 4]) == [Span(0, 2, 2, 0), Span(2, 1, 1, 4), Span(4, 1, 1, 5)]


def test_attention_is_the_same_with_and_without_the_fused_kernel() -> None:
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 4, 5, 8), torch.randn(3, 4, 9, 8), torch.randn(3, 4, 9, 8)
    mask = torch.zeros(3, 1, 5, 9)
    mask[1, :, :, 4:] = torch.finfo(torch.float32).min
    fused = attend(query, key, value, mask, 0.3)

    class Elsewhere(Tensor):
        device = torch.device("meta")

    plain = attend(query.as_subclass(Elsewhere), key, value, mask, 0.3)
    for one, other in zip(fused, plain, strict=True):
        torch.testing.assert_close(one, other.as_subclass(Tensor), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("spread", [4.0, 16.0])
def test_half_precision_rounds_no_more_than_a_fused_kernel(spread: float) -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 4, n, 64) for n in (32, 333, 333))
    query, key, value = ((x * f).bfloat16() for x, f in ((query, spread**0.5), (key, spread**0.5), (value, 1.0)))
    scale = 64**-0.5
    exact = (query.double() @ key.double().mT * scale).softmax(-1) @ value.double()

    def error(found: Tensor) -> float:
        return float((found.double() - exact).norm() / exact.norm())

    fused = error(torch.nn.functional.scaled_dot_product_attention(query, key, value, scale=scale))
    assert error(attend_by_products(query, key, value, None, scale)[0]) <= 2 * fused
    # A prefix that is shared, and what stands behind it, put together.
    shared = SharedPrefixes([key[:1, :, :300]], [value[:1, :, :300]]).of_layer(0, [Span(0, 1, 1, 0)])
    alone = attend_to_both(query[:1], key[:1, :, 300:], value[:1, :, 300:], None, scale, shared)
    assert float((alone.double() - exact[:1]).norm() / exact[:1].norm()) <= 2 * fused


def test_the_cache_extends_its_room_and_keeps_what_it_holds() -> None:
    torch.manual_seed(0)
    keys, values = torch.randn(3, 2, 9, 4), torch.randn(3, 2, 9, 4)
    cache = KeyValues(1, room=2)
    for at in range(9):
        held = cache.update(keys[:, :, at : at + 1], values[:, :, at : at + 1], 0)
    assert torch.equal(held[0], keys) and torch.equal(held[1], values)
    cache.keep(torch.tensor([2, 0]))
    held = cache.update(keys[:2, :, :1], values[:2, :, :1], 0)
    assert torch.equal(held[0], torch.cat([keys[[2, 0]], keys[:2, :, :1]], 2))
    assert torch.equal(held[1], torch.cat([values[[2, 0]], values[:2, :, :1]], 2))


@pytest.mark.slow
def test_asking_what_is_pending_needs_no_torch() -> None:
    code = "import sys, mllm_eval.generate; sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0

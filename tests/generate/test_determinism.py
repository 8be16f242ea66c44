"""`mllm-eval check --determinism`: the engine's tokens against those of the plain loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tasks import a_task
from tiny_generation import TEMPLATE, Images, Tiny, a_sample

from mllm_eval.answers import Journal
from mllm_eval.cli.checking import agreement_line, difference_lines
from mllm_eval.data.samples import ImageRef, Sample
from mllm_eval.generate import Task, attention, determinism
from mllm_eval.generate.determinism import AnswerAgreement, chosen, compare_answers


class Cast(Images):
    """Features in the model's dtype."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def __call__(self, images: list[ImageRef]) -> list[torch.Tensor]:
        return [features.to(self.dtype) for features in super().__call__(images)]


@pytest.fixture
def model() -> Tiny:
    torch.set_num_threads(1)
    return Tiny().double()


def asked(folder: Path, world: Images | None = None) -> Task:
    samples = [a_sample(f"s{n}", [f"image{n % 3}"] * (n % 4 != 3), "Which? " * (n + 1), world) for n in range(8)]
    return a_task(samples, 5, Journal(folder / "a.jsonl"), "test")


def test_equal_answers_are_counted_and_journals_left_alone(model: Tiny, tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    found = compare_answers(model, [asked(tmp_path)], TEMPLATE, Images(), progress=lambda *step: steps.append(step))
    assert found == AnswerAgreement(8, 0, ()) and found.sound
    assert steps[-1] == (8, 8)
    assert not list(tmp_path.iterdir())
    assert agreement_line([found, found], 2) == "16 of 16 questions in 2 lists have the plain loop's tokens"


def test_what_cannot_be_read_is_counted_apart(model: Tiny, tmp_path: Path) -> None:
    world = Images(broken="image0")
    found = compare_answers(model, [asked(tmp_path, world)], TEMPLATE, world)
    assert (found.questions, found.failed, found.differences) == (8, 2, ())
    assert "6 of 8 questions" in agreement_line([found], 1) and "2 failed in both" in agreement_line([found], 1)


@pytest.mark.slow
@pytest.mark.parametrize("tie", [True, False])
def test_a_difference_is_told_with_its_margin(
    model: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tie: bool
) -> None:
    plain = determinism.answer_one
    if tie:
        # Tokens 3 and 4 have the same logits but for rounding.
        model.llm.lm_head.weight.data[3] = model.llm.lm_head.weight.data[4]
        model.llm.lm_head.weight.data[[3, 4]] += 3.0

    def other(*of: Any) -> list[int]:
        tokens = plain(*of)
        wrong = {3: 4, 4: 3} if tie else {token: (token + 1) % 12 for token in range(16)}
        at = next((at for at, token in enumerate(tokens) if token in wrong), None)
        return tokens if at is None else [*tokens[:at], wrong[tokens[at]]]

    monkeypatch.setattr(determinism, "answer_one", other)
    found = compare_answers(model, [asked(tmp_path)], TEMPLATE, Images())
    assert found.differences and found.sound == tie
    assert all(one.tie == tie for one in found.differences)
    one = found.differences[0]
    assert (abs(one.margin) < 1e-10) == tie and one.text != one.reference
    head, engine, loop = difference_lines(one)
    assert head.startswith(f"  test {one.id}: token {one.token}, margin ") and ("(a tie)" in head) == tie
    assert engine.endswith(repr(one.text)) and loop.endswith(repr(one.reference))


def test_a_part_holds_whole_images_and_the_same_ones_every_time() -> None:
    samples = [Sample("b", str(n), (), "?", "", "", f"image{n % 5}", {}) for n in range(40)]
    part = chosen(samples, 10)
    assert part == chosen(samples, 10) and len(part) == 16
    assert len({one.cluster for one in part}) == 2
    assert chosen(samples, None) == samples


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("fault", [1.0, 0.7])
def test_attention_that_is_scaled_otherwise_is_no_tie(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, fault: float
) -> None:
    torch.set_num_threads(1)
    model = Tiny().to(dtype)
    right = attention.attend_to_both
    monkeypatch.setattr(
        attention, "attend_to_both", lambda q, k, v, mask, scale, *rest: right(q, k, v, mask, scale * fault, *rest)
    )
    samples = [a_sample(f"s{n}", [f"image{n % 5}"], "Which? " * (n % 7 + 1)) for n in range(40)]
    found = compare_answers(model, [a_task(samples, 8, Journal(tmp_path / "a.jsonl"), "test")], TEMPLATE, Cast(dtype))
    assert found.sound == (fault == 1.0)
    assert found.differences or fault == 1.0

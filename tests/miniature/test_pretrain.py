"""The miniature's pretraining: pictures are pure functions; a killed run ends as a whole one does."""

from __future__ import annotations

from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from torch import nn

from mllm_eval.miniature.phrasing import LETTERS, letter
from mllm_eval.miniature.pretrain import contrastive, distillation, language
from mllm_eval.miniature.pretrain.corpus import (
    FORMS,
    Segments,
    claim_drill,
    conversation,
    pair_drill,
    text_probe,
    tokenizer_texts,
)
from mllm_eval.miniature.pretrain.images import pictures, pixels
from mllm_eval.miniature.pretrain.loop import Schedule, cosine, fit
from mllm_eval.miniature.tokenizer import train_tokenizer
from mllm_eval.miniature.world import KINDS, SIZE, draw


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(tokenizer_texts(20), vocab=420)


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_picture_is_a_function_of_its_name(kind: str) -> None:
    first, again, other = draw("t", 3, kind), draw("t", 3, kind), draw("t", 4, kind)
    assert first.image.tobytes() == again.image.tobytes()
    assert first.questions == again.questions
    assert first.image.tobytes() != other.image.tobytes()
    assert max(first.image.size) <= SIZE


@pytest.mark.parametrize("kind", list(KINDS))
def test_every_answer_is_a_choice_and_every_picture_is_asked_about(kind: str) -> None:
    for index in range(50):
        picture = draw("t", index, kind)
        assert picture.questions
        for question in picture.questions:
            assert question.answer == question.choices[0]
            assert len(set(question.choices)) == len(question.choices) >= 2
            assert question.evidence in picture.sentences


def test_the_letter_points_at_the_answer() -> None:
    rng = Random(0)
    for index in range(100):
        question = draw("t", index, "scene").questions[0]
        prompt, answer = letter(question, rng)
        line = next(x for x in prompt.splitlines() if x.startswith((f"{answer}.", f"({answer})")))
        assert line.endswith(f" {question.answer}")
        assert answer in LETTERS


def test_probes_in_text_name_their_answer() -> None:
    for task in ("caption", "copy", "letter", "open"):
        prompt, answer = text_probe(task, 1)
        assert prompt.startswith("<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n")
        assert answer and not answer.endswith("<|eot_id|>")


def test_the_tokenizer_gives_back_its_text_and_one_token_a_digit(tokenizer) -> None:
    text = "A form: NAME SAM, ROOM 427.\nÜber 中文 😀"
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert len(tokenizer("427").input_ids) == 3
    assert tokenizer("<|eot_id|>").input_ids == [tokenizer.eos_token_id]


def test_a_resumed_fit_ends_with_the_same_weights(tmp_path: Path) -> None:
    def run(work: Path, until: list[int]) -> torch.Tensor:
        torch.manual_seed(1)
        module = nn.Linear(4, 1)

        def step_fn(step: int) -> dict[str, torch.Tensor]:
            if step == until[0]:
                until[0] = -1
                raise KeyboardInterrupt
            return {"loss": (module(torch.randn(8, 4)) - 1).square().mean()}

        try:
            fit("m", work, module, step_fn, Schedule(30, lr=0.05, warmup=5, save_every=4, report_every=10))
        except KeyboardInterrupt:
            return run(work, until)
        return module.weight.detach().clone()

    assert torch.equal(run(tmp_path / "a", [-1]), run(tmp_path / "b", [17]))


def test_the_schedule_warms_up_and_cools_down() -> None:
    factors = [cosine(s, 100, 10) for s in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert max(factors) == pytest.approx(1.0)
    assert factors[-1] < 0.03


@pytest.mark.slow
def test_one_step_of_each_objective_has_gradients(tokenizer) -> None:
    torch.manual_seed(0)
    shown = pictures("t", 0, 16, one_kind=False)
    images = pixels([p.image for p in shown])
    assert images.shape == (16, 3, SIZE, SIZE) and float(images.abs().max()) <= 1.0
    ids = torch.tensor([(tokenizer(p.caption).input_ids + [tokenizer.pad_token_id] * 90)[:90] for p in shown])
    contrast = contrastive.Contrast(len(tokenizer))
    contrast(images, ids, ids != tokenizer.pad_token_id)["loss"].backward()
    assert contrast.vision.embeddings.patch_embedding.weight.grad.abs().sum() > 0
    pair = distillation.Pair()
    before = pair.teacher.backbone.embeddings.cls_token.clone()
    distillation.losses(pair, images)["loss"].backward()
    assert pair.student.backbone.embeddings.mask_token.grad is not None
    assert all(p.grad is None for p in pair.teacher.parameters())
    with torch.no_grad():
        pair.student.backbone.embeddings.cls_token.add_(1.0)
    pair.follow(0.9)
    assert torch.allclose(pair.teacher.backbone.embeddings.cls_token, before + 0.1, atol=1e-6)


def test_a_view_shows_what_its_scale_and_shift_say() -> None:
    torch.manual_seed(0)
    ramp = torch.linspace(-1, 1, SIZE + 1).unfold(0, 2, 1).mean(-1)
    images = torch.stack([ramp[None].expand(SIZE, SIZE), ramp[:, None].expand(SIZE, SIZE), torch.zeros(SIZE, SIZE)])
    shown, scale, shift = distillation.view(images[None].repeat(64, 1, 1, 1), jitter=0.0)
    half = SIZE // 2
    across = shown[:, 0, half, half + 20] - shown[:, 0, half, half - 20]
    down = shown[:, 1, half + 20, half] - shown[:, 1, half - 20, half]
    assert torch.allclose(across, 40 * scale * 2 / SIZE, atol=1e-3)
    assert torch.allclose(down, across, atol=1e-3)
    for axis in (0, 1):
        middle = shown[:, axis, half - 1 : half + 1, half - 1 : half + 1].mean((1, 2))
        assert torch.corrcoef(torch.stack([middle, shift[:, axis]]))[0, 1] > 0.6


def test_contrast_finds_the_right_row_and_ignores_unknown_ones() -> None:
    torch.manual_seed(0)
    target = torch.eye(12)
    known = torch.arange(12) != 3
    loss, accuracy = distillation.contrast(target.clone(), target, known)
    assert accuracy == 1.0 and loss < 0.5
    wrong, missed = distillation.contrast(target.roll(1, 0), target, known)
    assert missed == 0.0 and wrong > loss
    broken = target.clone()
    broken[3] = 7.0
    assert torch.equal(distillation.contrast(broken, broken, known)[0], loss)


def _pairs(segments: Segments) -> list[tuple[tuple[str, bool], tuple[str, bool]]]:
    return list(zip(segments[::2], segments[1::2], strict=True))


@pytest.mark.parametrize("seed", range(20))
def test_drills_ask_only_what_the_list_says(seed: int) -> None:
    (told, _), *rest = pair_drill(Random(seed))
    for (asked, _), (answer, target) in _pairs(rest):
        key = asked.removeprefix("\n: ")
        ways = (f"{key} {answer}", f"{answer} {key}", f"{key} says {answer}", f"{answer} says {key}")
        assert target and any(way in told for way in ways)
    (told, _), *rest = claim_drill(Random(seed))
    stated = {pair.removeprefix("a ") for pair in told.removeprefix("<|begin_of_text|>").split(", ")}
    claims = [(asked.removeprefix("\n: ").removesuffix("?"), answer) for (asked, _), (answer, _) in _pairs(rest)]
    assert claims == [(claim, "yes" if claim in stated else "no") for claim, _ in claims]


def test_only_answers_are_learnt(tokenizer) -> None:
    rng = Random(0)
    for index, form in enumerate(FORMS):
        segments = conversation(rng, index, form)
        ids, labels = language.batch(tokenizer, [segments])
        learnt = tokenizer.decode(labels[labels != -100])
        assert learnt == "".join(text for text, target in segments if target)
        assert np.all(labels[labels != -100].numpy() == ids[labels != -100].numpy())

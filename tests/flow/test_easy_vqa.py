"""The example of a user's own benchmark and training set, on data that nobody here made: PyPI's easy-vqa."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from places import ROOT

from mllm_eval.catalog import load_benchmark, load_recipe, names, paper_benchmarks
from mllm_eval.data.conversations import ConversationSet
from mllm_eval.data.samples import Sample
from mllm_eval.data.snapshots import load_samples
from mllm_eval.errors import UserError
from mllm_eval.pipeline.asked import asked_benchmarks
from mllm_eval.pipeline.reporter import Silent
from mllm_eval.pipeline.sources import needed, provide
from mllm_eval.prompts import conversation, render
from mllm_eval.score import score_samples, summarize
from mllm_eval.storage import locate

pytest.importorskip("easy_vqa", reason="easy-vqa is not installed: pip install -e '.[examples]'")

EXAMPLE = ROOT / "docs" / "examples" / "easy-vqa"


@pytest.fixture(scope="module")
def converter() -> dict[str, Callable[..., Any]]:
    return runpy.run_path(str(EXAMPLE / "convert.py"))


@pytest.fixture
def samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, converter: dict[str, Callable[..., Any]]) -> list[Sample]:
    """The questions on two test images, the training set of three others beside them."""
    monkeypatch.setenv("MLLM_EVAL_DATA", str(tmp_path))
    monkeypatch.setenv("MLLM_EVAL_PATH", str(EXAMPLE))
    converter["write_benchmark"](tmp_path / "easy-vqa", 2)
    converter["write_training"](tmp_path / "easy-vqa", 3)
    return load_samples(load_benchmark("easy_vqa"), "easy-vqa")


def test_its_questions_are_samples(samples: list[Sample]) -> None:
    assert (samples[0].id, samples[0].target) == ("test-0", "triangle")
    assert samples[0].prompt == "what is the red shape?\nAnswer the question using a single word or phrase."
    assert len({sample.cluster for sample in samples}) == 2 < len(samples)
    assert {sample.images[0].load().size for sample in samples} == {(64, 64)}


def test_it_is_learnt_in_the_words_it_is_asked_in(samples: list[Sample], tmp_path: Path) -> None:
    recipe = load_recipe("easy-vqa")
    (data,) = recipe.stage2.data
    learnt = ConversationSet(locate(data.path), locate(data.images))
    first = learnt[0]
    text = "".join(part for part, _ in conversation(recipe.template, list(first.turns), first.system))
    question = first.turns[0][0].removeprefix("<image>\n")
    assert text.startswith(render(recipe.template, question, 1))
    assert question.partition("\n")[2] == samples[0].prompt.partition("\n")[2]
    assert all(learnt.image_path(name).is_file() for row in learnt for name in row.images)
    assert {name for row in learnt for name in row.images} == {"0.png", "1.png", "2.png"}


def test_its_answers_score_full_and_no_answer_does_not(samples: list[Sample]) -> None:
    benchmark = load_benchmark("easy_vqa")
    gold = {sample.id: f"{sample.target.capitalize()}." for sample in samples}
    scores = score_samples(benchmark, "cambrian", samples, gold)
    summary = summarize(benchmark, "cambrian", samples, scores)
    assert (summary.value, summary.n, summary.n_failed) == (100.0, len(samples), 0)
    assert 100 / 8 < summary.chance < 50
    always = score_samples(benchmark, "cambrian", samples, {sample.id: "yes" for sample in samples})
    told = sum(sample.target == "yes" for sample in samples)
    assert summarize(benchmark, "cambrian", samples, always).value == pytest.approx(100 * told / len(samples))


def test_its_recipe_asks_it_and_nothing_of_the_paper(samples: list[Sample]) -> None:
    recipe = load_recipe("easy-vqa")
    assert "easy_vqa" in names("benchmarks") and "easy_vqa" not in paper_benchmarks()
    asked = asked_benchmarks(["easy_vqa"], recipe.data)
    provide(needed(recipe, True, asked), Silent())
    with pytest.raises(UserError, match=r"mme has no data pin 'easy-vqa'"):
        asked_benchmarks(["mme"], recipe.data)


def test_no_image_of_the_benchmark_is_learnt(samples: list[Sample]) -> None:
    from easy_vqa import get_test_image_paths, get_train_image_paths

    learnt = {Path(path).read_bytes() for path in get_train_image_paths().values()}
    assert len(learnt) == 4000
    assert not learnt & {Path(path).read_bytes() for path in get_test_image_paths().values()}


def test_the_page_shows_the_files_as_they_are() -> None:
    page = (EXAMPLE / "README.md").read_text(encoding="utf-8")
    for name in ("benchmarks/easy_vqa/benchmark.yaml", "configs/recipes/easy-vqa.yaml"):
        assert (EXAMPLE / name).read_text(encoding="utf-8").strip() in page, name
    recipe = yaml.safe_load((EXAMPLE / "configs/recipes/easy-vqa.yaml").read_text(encoding="utf-8"))
    assert f"{recipe['stage1']['steps']} + {recipe['stage2']['steps']} steps" in page

"""What an evaluation does, in which order and under which titles; whose answers a variant takes over."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from heard import Heard
from own_benchmark import ROWS, YAML, summary, the_run, watched, write

from mllm_eval import pipeline
from mllm_eval.answers import Journal, read_answers
from mllm_eval.errors import UserError
from mllm_eval.generate.request import TOO_LONG
from mllm_eval.pipeline import sources
from mllm_eval.storage import read_jsonl

PIN = '  other: {repo: mine, split: test, path: other.csv, image_files: "images/{image}"}\n'
OTHER = YAML.replace("columns:", PIN + "columns:")


def evaluated(**which: Any) -> list[str]:
    heard = Heard()
    pipeline.evaluate("tiny-dinov2", "own", benchmarks=["own"], reporter=heard, **which)
    return heard.said


def remove_answers(home: Path) -> None:
    for place in ("answers", "scores"):
        shutil.rmtree(the_run().folder / place)
    shutil.rmtree(home / "results" / "features")


@pytest.mark.slow
def test_groups_are_numbered_and_encoded_one_after_the_other(own_home: Path) -> None:
    remove_answers(own_home)
    assert [one for one in evaluated(blind=True) if not one.startswith("look")] == [
        "load the checkpoint",
        "features: own",
        "answers: own, 1 of 2",
        "scores: own",
        "answers: own (blind), 2 of 2",
        "scores: own (blind)",
    ]
    remove_answers(own_home)
    assert "answers: own" in evaluated()


@pytest.mark.slow
def test_a_variant_takes_the_answers_to_the_questions_that_it_shares(
    own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of twelve questions, five are those of the default, with other ids.
    write(own_home, [*ROWS[7:], *({**row, "question": f"Who is {row['image']}?"} for row in ROWS[:7])], facts=OTHER)
    (own_home / "data/mine/questions.csv").rename(own_home / "data/mine/other.csv")
    write(own_home, facts=OTHER + "variants:\n  other: {about: other rows, pins: {mine: other}}\n")
    asked = watched(monkeypatch)
    said = evaluated(variants=["other"])
    assert asked == [str(n) for n in range(5, 12)]
    assert "answers: own (other)" in said
    first = {one.id: one.text for one in read_answers(the_run().answers_path("own"))}
    other = {one.id: one.text for one in read_answers(the_run().folder / "answers" / "own.other.jsonl")}
    assert [other[str(n)] for n in range(5)] == [first[str(n)] for n in range(7, 12)]


@pytest.mark.slow
def test_an_answer_beyond_the_models_positions_is_asked_again(own_home: Path) -> None:
    path = the_run().answers_path("own")
    before = read_answers(path)
    Journal(path).append([replace(before[3], tokens_in=10**6)])
    said = evaluated()
    assert any(line.startswith("own: 1 of its answers") and "beyond the model's positions" in line for line in said)
    assert read_answers(path) == before


@pytest.mark.slow
def test_a_later_group_takes_the_answers_of_an_earlier_one(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Questions without images form a group for each variant; five of the second have the prompts of the first.
    write(own_home, [*ROWS[7:], *({**row, "question": f"Who is {row['image']}?"} for row in ROWS[:7])], facts=OTHER)
    (own_home / "data/mine/questions.csv").rename(own_home / "data/mine/other.csv")
    write(own_home, facts=OTHER + "variants:\n  dark: {about: none seen, images: none, pins: {mine: other}}\n")
    asked = watched(monkeypatch)
    evaluated(blind=True, variants=["dark"])
    assert asked == [str(n) for n in [*range(12), *range(5, 12)]]


@pytest.mark.slow
def test_cut_answers_of_another_limit_are_not_taken_over(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    third = PIN.replace("other", "third")
    facts = OTHER.replace("columns:", third + "columns:")
    facts += "variants:\n  other: {about: other rows, pins: {mine: other}}\n"
    facts += "  third: {about: more rows, pins: {mine: third}}\n"
    others = [{**row, "question": f"Who is {row['image']}?"} for row in ROWS]
    for name, rows in (("other", others), ("third", [*others, ROWS[0]]), ("questions", ROWS)):
        write(own_home, rows, facts=facts)
        if name != "questions":
            (own_home / "data/mine/questions.csv").rename(own_home / f"data/mine/{name}.csv")
    evaluated(variants=["other"])
    answers = read_answers(the_run().folder / "answers" / "own.other.jsonl")
    whole = {at for at, one in enumerate(answers) if one.tokens_out < 4}
    write(own_home, facts=facts.replace("max_new_tokens: 4", "max_new_tokens: 5"))
    evaluated()
    asked = watched(monkeypatch)
    evaluated(variants=["third"])
    assert set(asked) == {str(at) for at in range(12) if at not in whole}
    assert len(whole) < 12


@pytest.mark.slow
def test_the_ledger_counts_an_image_once_for_the_default(own_home: Path) -> None:
    write(own_home, [{**row, "question": "Who?"} for row in ROWS[:6]], facts=OTHER)
    (own_home / "data/mine/questions.csv").rename(own_home / "data/mine/other.csv")
    write(own_home, facts=OTHER + "variants:\n  other: {about: other rows, pins: {mine: other}}\n")
    remove_answers(own_home)
    (the_run().folder / "ledger.jsonl").unlink()
    evaluated(variants=["other"])
    lines = read_jsonl(the_run().folder / "ledger.jsonl")
    assert [(line["step"], line["images"]) for line in lines if line["kind"] == "features"] == [("features: own", 6)]


@pytest.mark.slow
def test_a_broken_image_is_told_when_it_is_encoded(own_home: Path) -> None:
    shutil.rmtree(own_home / "results" / "features")
    write(own_home, [*ROWS[:5], {**ROWS[5], "image": "none.png"}, *ROWS[6:]])
    (own_home / "data/mine/images/none.png").write_bytes(b"no picture")
    assert any(line.startswith("broken image: ") and "none.png" in line for line in evaluated())


@pytest.mark.slow
def test_samples_that_failed_for_good_are_asked_again_only_on_request(own_home: Path) -> None:
    path = the_run().answers_path("own")
    before = read_answers(path)
    failed = replace(before[3], text="", tokens_out=0, state="error", reason=f"{TOO_LONG} of another machine")
    Journal(path).append([failed])
    evaluated()
    assert read_answers(path)[3] == failed
    assert summary()["n_failed"] == 1
    assert "1 failed samples are asked again" in evaluated(retry_failed=True)
    assert read_answers(path) == before
    assert summary()["n_failed"] == 0
    assert "no sample failed that could be retried" in evaluated(retry_failed=True)


@pytest.mark.slow
def test_missing_data_are_rendered_before_questions_are_read(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(the_run().folder / "scores")
    (own_home / "data/mine").rename(own_home / "kept")
    made = sources.MadeFolder(make=f"{__name__}:render", whole="questions.csv")
    monkeypatch.setattr(sources, "sources", lambda: {"mine": made})
    said = evaluated()
    assert said.index("data: mine") < said.index("scores: own")


def render(data: Path, _: object) -> None:
    """Stands for a renderer."""
    (data.parent / "kept").rename(data / "mine")


@pytest.mark.slow
def test_a_subset_is_said_as_the_table_counts_it(own_home: Path) -> None:
    said = evaluated(subset=6)
    assert said[0].startswith("a subset of 6 of 1 benchmarks is 6 of each, as the table's subset of ")
    assert "answers: own@" not in said


@pytest.mark.slow
def test_a_trained_run_does_without_its_training_data_but_not_with_other_ones(own_home: Path) -> None:
    train = own_home / "data/mine/train.jsonl"
    content = train.read_text()
    train.unlink()
    shutil.rmtree(the_run().folder / "scores")
    assert "scores: own" in evaluated()
    train.write_text(content + content.splitlines()[0] + "\n")
    shutil.rmtree(the_run().folder / "scores")
    with pytest.raises(UserError, match=r"train\.jsonl: .* was trained on"):
        evaluated()

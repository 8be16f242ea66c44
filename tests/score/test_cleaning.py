"""Spaces that the paper's code never saw in an answer: taken away for its rules alone, from a model's answers alone."""

from __future__ import annotations

import json
from pathlib import Path

import made_runs
import pytest
from summaries import score_file
from transformers import PreTrainedTokenizerBase

from mllm_eval.answers import Answer, Journal
from mllm_eval.catalog import load_benchmark, paper_benchmarks
from mllm_eval.catalog.benchmark import Benchmark
from mllm_eval.catalog.variant import DEFAULT, VariantKey
from mllm_eval.data.samples import Sample
from mllm_eval.pipeline.runscores import DataStates, score_answers
from mllm_eval.run import Run
from mllm_eval.score.cleaning import clean_up_spaces

TEXTS = ["Yes .", "no , it isn 't", "is n't it ?", "the dogs ' bowl", "'s", "I 'm sure they 've two , we 're",
         "a . b !", "1 .5", "  ..", "x  .", "fine.", "", "don' t", "\n .", "a ' .", "n't n't 's's 're"]  # fmt: skip


class Unknown(DataStates):
    """Of data that no file holds."""

    def of(self, benchmark: Benchmark, variant: VariantKey) -> str | None:
        return None


def test_cleaning_is_what_transformers_does_where_it_does_it() -> None:
    for text in TEXTS:
        assert clean_up_spaces(text) == PreTrainedTokenizerBase.clean_up_tokenization(None, text), text  # type: ignore[arg-type]


def test_the_papers_rules_of_all_sixteen_read_cleaned_answers_and_the_robust_ones_do_not() -> None:
    rules = [load_benchmark(name).rules for name in paper_benchmarks()]
    assert [one["cambrian"].clean_up_spaces for one in rules] == [True] * 16
    assert [one["robust"].clean_up_spaces for one in rules] == [False] * 16


def test_a_models_answers_are_cleaned_and_a_files_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLLM_EVAL_RESULTS", str(tmp_path / "results"))
    gqa, record = load_benchmark("gqa"), {"answer": "yes", "questionId": "1"}
    run = Run(made_runs.encoder(), made_runs.recipe(), made_runs.llm(), 0, {"encoder": "e", "llm": "l"})
    samples = [Sample("gqa", name, (), "Is it?", "yes", name, name, record) for name in ("a", "b")]
    journal = Journal(run.answers_path("gqa"))
    journal.append([Answer("a", "p", (), "Yes .", 1, 1), Answer("b", "p", (), "", 1, 0, "error", "broken")])
    journal.finish(["a", "b"])
    score_answers(run, gqa, DEFAULT, samples, Unknown("mini"))

    def scores(rules: str) -> list[float | None]:
        lines = run.scores_path("gqa", rules).read_text().splitlines()
        return [json.loads(line)["score"] for line in lines]

    # The rule takes a period from the end of "yes.", and would leave "yes " of "yes .".
    assert scores("cambrian") == [1.0, None] and scores("robust") == [1.0, None]
    assert '"Yes ."' in run.answers_path("gqa").read_text()
    file = tmp_path / "answers.jsonl"
    file.write_text(
        "".join(json.dumps({"id": text, "record": record, "prediction": text}) + "\n" for text in ("Yes .", "Yes."))
    )
    score_file("gqa", file, out=tmp_path / "scores.jsonl")
    assert [json.loads(line)["score"] for line in (tmp_path / "scores.jsonl").read_text().splitlines()] == [0.0, 1.0]

"""Scores of a run's answers, where they are missing or made by other rules. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict

from mllm_eval.answers import Answers, open_answers
from mllm_eval.catalog import Benchmark
from mllm_eval.catalog.benchmark import answers_variant
from mllm_eval.data.samples import Sample
from mllm_eval.errors import UserError
from mllm_eval.pipeline.subset import stratum_of
from mllm_eval.run import RunFolder
from mllm_eval.storage import read_json, sha256_file, write_json, write_jsonl


def scored(run: RunFolder, benchmark: Benchmark, variant: str, rules: str) -> bool:
    """Whether these very answers were scored by the rules as they are now."""
    from mllm_eval.score import protocol_hash

    answers = run.answers_path(benchmark.name, answers_variant(benchmark, variant, run.data))
    scores = run.scores_path(benchmark.name, rules, variant)
    path = run.summary_path(benchmark.name, rules, variant)
    if not all(file.is_file() for file in (answers, scores, path)):
        return False
    try:
        summary = read_json(path)
    except UserError:
        return False
    return bool(
        summary.get("answers") == sha256_file(answers)
        and summary.get("protocol_hash") == protocol_hash(benchmark, rules, variant)
    )


def score_answers(run: RunFolder, benchmark: Benchmark, variant: str, samples: Sequence[Sample]) -> None:
    """Score a run's answers to a benchmark by each rule set that the benchmark has.

    A variant that only counts otherwise, or asks the same of the same data, reads the answers of the one it equals.

    Raises:
        UserError: the answers are not those to these samples.
    """
    from mllm_eval.score import score_samples, summarize

    path = run.answers_path(benchmark.name, answers_variant(benchmark, variant, run.data))
    predictions = _Predictions(open_answers(path))
    for rules in benchmark.rules:
        scores = score_samples(benchmark, rules, samples, predictions)
        lines = ({**asdict(one), **_place(benchmark, sample)} for one, sample in zip(scores, samples, strict=True))
        write_jsonl(run.scores_path(benchmark.name, rules, variant), lines)
        summary = asdict(summarize(benchmark, rules, samples, scores, variant))
        summary["chance"] = _chance(run, benchmark, variant, summary["chance"])
        # Written last: a summary that names the answers stands for whole scores.
        write_json(run.summary_path(benchmark.name, rules, variant), {**summary, "answers": sha256_file(path)})


class _Predictions(Mapping[str, str | None]):
    """The texts of answers by sample id; None where there was none."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers

    def __getitem__(self, id_: str) -> str | None:
        answer = self._answers[id_]
        return answer.text if answer.state == "ok" else None

    def __iter__(self) -> Iterator[str]:
        return iter(self._answers)

    def __len__(self) -> int:
        return len(self._answers)


def _chance(run: RunFolder, benchmark: Benchmark, variant: str, by_options: float) -> float:
    """The higher of drawing an option at random and the best guess that the data pin knows of."""
    return max(by_options, benchmark.pin(run.data, variant).chance or 0.0)


def _place(benchmark: Benchmark, sample: Sample) -> dict[str, str | None]:
    """What statistics must know of a sample besides its score: what it hangs together with, what it counts under."""
    return {"group": sample.group, "cluster": sample.cluster, "stratum": stratum_of(benchmark, sample)}

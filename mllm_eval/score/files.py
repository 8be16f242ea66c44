"""`mllm-eval score BENCHMARK --answers FILE`: scores answers from any source, without a model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mllm_eval.catalog import load_benchmark
from mllm_eval.catalog.benchmark import Benchmark
from mllm_eval.catalog.variant import DEFAULT, VariantKey
from mllm_eval.console import say
from mllm_eval.data.samples import Sample
from mllm_eval.data.snapshots import load_samples
from mllm_eval.distribution import distribution, one_answer
from mllm_eval.errors import UserError, near
from mllm_eval.score.answerfiles import LAYOUTS, AnswerLine
from mllm_eval.score.joining import NUMBERINGS, agree, join
from mllm_eval.score.records import sample_of, whole_groups
from mllm_eval.score.scorer import load_scorer, own_code, rules_of
from mllm_eval.score.scoring import Score, Summary, count_empty, score_samples, summarize
from mllm_eval.storage import write_json, write_jsonl


@dataclass(frozen=True, slots=True)
class ScoredFile:
    """A scored file of answers: samples and scores in the same order, predictions by id.

    brought: whether the samples come from records in the file instead of the benchmark's data.
    """

    samples: Sequence[Sample]
    predictions: Mapping[str, str | None]
    scores: Sequence[Score]
    summary: Summary
    brought: bool = False


@dataclass(frozen=True, slots=True)
class ScoringOptions:
    """How a file of answers is read and scored.

    rules: the rule set. partial: whether samples may be missing. layout: of the file. pin, variant: the benchmark's
    data that the answers belong to.
    """

    rules: str = "cambrian"
    partial: bool = False
    layout: str = "jsonl"
    pin: str = "mini"
    variant: VariantKey = DEFAULT


WHOLE = ScoringOptions()
"""All samples, under the paper's rules."""


def score_file(
    benchmark: str, answers: Path, options: ScoringOptions = WHOLE, out: Path | None = None, as_json: bool = False
) -> ScoredFile:
    """Score a file of answers, print its numbers, and write one line per sample to `out`.

    If gold answers are hidden, the file for the scoring server is written beside `out`, as `.submission.json`.
    Lines are matched to the benchmark's data (`pin`) by id, or have their own records.
    Raises UserError for everything that would change the score unnoticed: repeated, unknown or missing ids, lines
    whose question or gold answer differs from their sample's, incomplete groups (unless `partial`), invalid lines, and
    records without a needed field.
    """
    chosen = load_benchmark(benchmark)
    rules_of(chosen, options.rules)
    scored = score_answers(chosen, answers, options)
    summary = scored.summary
    if out is not None:
        try:
            write_jsonl(out, (asdict(score) for score in scored.scores))
            if (entries := submission(chosen, scored)) is not None:
                write_json(out.with_suffix(".submission.json"), entries)
        except OSError as error:
            raise UserError(f"{out}: the scores can't be written there ({error.strerror or error})") from None
    if as_json:
        say(json.dumps({key: value for key, value in asdict(summary).items()}, ensure_ascii=False))
    else:
        say(sentence(summary))
        given = distribution(((one.parsed, one.score) for one in scored.scores), (one.target for one in scored.samples))
        if most_given := one_answer(given):
            say(f"one answer makes up most: {most_given[0]!r} in {most_given[1]:.0%}")
    return scored


def score_answers(benchmark: Benchmark, answers: Path, options: ScoringOptions = WHOLE) -> ScoredFile:
    """Score a file of answers without printing. Raises UserError as `score_file` does."""
    layout = "jsonl" if options.layout == "auto" else options.layout
    if layout not in LAYOUTS:
        raise UserError(f"unknown layout '{layout}'.{near(layout, LAYOUTS)} Known: {', '.join(LAYOUTS)}")
    lines = LAYOUTS[layout](answers, benchmark)
    return score_lines(benchmark, str(answers), lines, replace(options, layout=layout))


def score_lines(
    benchmark: Benchmark, answers: str, lines: Sequence[AnswerLine], options: ScoringOptions = WHOLE
) -> ScoredFile:
    """Score lines of answers. answers: where they come from, for errors. Raises UserError as `score_file` does."""
    if not lines:
        raise UserError(f"{answers}: no answers in it")
    if options.layout == "jsonl":
        _no_repeats(lines)
    if lines[0].record is not None:
        return _brought(benchmark, answers, lines, options)
    samples = load_samples(benchmark, options.pin, options.variant)
    if options.layout in NUMBERINGS:
        lines = join(benchmark, lines, samples, NUMBERINGS[options.layout])
    else:
        _known(benchmark, lines, samples)
        agree(benchmark, lines, samples)
    return _matched(benchmark, answers, lines, samples, options)


def _no_repeats(lines: Sequence[AnswerLine]) -> None:
    first: dict[str, str] = {}
    brings = lines[0].record is not None
    for line in lines:
        if line.id in first:
            raise UserError(f"{line.where}: id '{line.id}' occurs twice (first at {first[line.id]})")
        first[line.id] = line.where
        if (line.record is not None) != brings:
            said = "brings no record" if brings else "brings a record"
            raise UserError(f"{line.where}: this line {said}, unlike the first; all must or none")


def _known(benchmark: Benchmark, lines: Sequence[AnswerLine], samples: Sequence[Sample]) -> None:
    known = {sample.id for sample in samples}
    for line in lines:
        if line.id not in known:
            raise UserError(f"{line.where}: {benchmark.name} has no sample '{line.id}'.{near(line.id, known)}")


def _matched(
    benchmark: Benchmark,
    answers: str,
    lines: Sequence[AnswerLine],
    samples: Sequence[Sample],
    options: ScoringOptions,
) -> ScoredFile:
    predictions = {line.id: line.prediction for line in lines}
    missing = [sample for sample in samples if sample.id not in predictions]
    if missing and not options.partial:
        few = f"{len(predictions)} answers to {len(samples)} samples"
        some = f"{few}: {len(missing)} of {len(samples)} samples have no answer (first: '{missing[0].id}')"
        raise UserError(f"{answers}: {some}; give them or pass --partial")
    answered = [sample for sample in samples if sample.id in predictions]
    broken = {sample.group for sample in missing}
    whole = {sample.group for sample in answered} - broken if missing else None
    scores = score_samples(benchmark, options.rules, answered, predictions)
    empty = count_empty(predictions.values())
    summary = summarize(benchmark, options.rules, answered, scores, options.variant, whole, empty)
    return ScoredFile(answered, predictions, scores, summary)


def _brought(benchmark: Benchmark, answers: str, lines: Sequence[AnswerLine], options: ScoringOptions) -> ScoredFile:
    scorer = load_scorer(benchmark)
    samples = [sample_of(benchmark, scorer, line.id, line.record or {}, line.where) for line in lines]
    whole, problem = whole_groups(scorer, samples)
    if problem and not options.partial:
        raise UserError(f"{answers}: {problem}; complete it or pass --partial")
    predictions = {line.id: line.prediction for line in lines}
    scores = score_samples(benchmark, options.rules, samples, predictions)
    everything = len(whole) == len({sample.group for sample in samples})
    empty = count_empty(predictions.values())
    summary = summarize(
        benchmark, options.rules, samples, scores, options.variant, None if everything else whole, empty
    )
    return ScoredFile(samples, predictions, scores, summary, brought=True)


def submission(benchmark: Benchmark, scored: ScoredFile) -> list[dict[str, Any]] | None:
    """Entries for the server that scores samples with hidden gold answers; None if all could be scored here."""
    entry = load_scorer(benchmark).submission
    if entry is None or scored.summary.n_unscored == 0:
        return None
    with own_code(benchmark, "`submission`"):
        return [entry(sample.record, scored.predictions[sample.id] or "") for sample in scored.samples]


def sentence(summary: Summary) -> str:
    """A summary as one line: protocol, value, counts."""
    value = "no value" if summary.value is None else f"{summary.value:.2f}"
    marked = " (partial)" if summary.partial else ""
    counts = f"n {summary.n}, failed {summary.n_failed}, unparsed {summary.n_unparsed}"
    counts += f", empty {summary.n_empty}" if summary.n_empty else ""
    return f"{summary.protocol} {summary.protocol_hash}: {value}{marked}; {counts}, chance {summary.chance:g}"

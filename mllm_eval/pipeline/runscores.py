"""Score a run's answers where scores are missing or were made by other rules. Needs no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from mllm_eval.answers import Answer, Journal, open_answers
from mllm_eval.catalog import Benchmark
from mllm_eval.catalog.benchmark import answers_variant
from mllm_eval.catalog.variant import VariantKey
from mllm_eval.data.content import content_of, contents_hash, state_of
from mllm_eval.data.samples import Sample
from mllm_eval.distribution import counted
from mllm_eval.errors import UserError
from mllm_eval.pipeline.selection import stratum_of
from mllm_eval.run import RunFolder
from mllm_eval.storage import read_json, sha256_file, write_json, write_jsonl

if TYPE_CHECKING:
    from mllm_eval.score import Score

# File in a run's folder: the state of the data on which each benchmark and variant was scored.
SETTLED = "settled.json"
# Version of the rule that decides which answers are still valid. Under another version the samples are read once more.
ASKED = "2"


class DataStates:
    """Remembers the state of each data pin at its first query, which must come before the samples are read.

    Then the next command notices a file that changed while the samples were read.
    """

    def __init__(self, pin: str) -> None:
        self.pin = pin
        self._states: dict[tuple[str, str], str | None] = {}

    def of(self, benchmark: Benchmark, variant: VariantKey) -> str | None:
        """Return the state of the pin that a variant reads. Raises UserError as `state_of` does."""
        name = benchmark.pin_name(self.pin, variant)
        if (benchmark.name, name) not in self._states:
            self._states[benchmark.name, name] = state_of(benchmark, name)
        return self._states[benchmark.name, name]


def answered(run: RunFolder, benchmark: Benchmark, variant: VariantKey) -> bool:
    """Whether the journal of the answers that a variant is scored from is complete."""
    return Journal(run.answers_path(benchmark.name, answers_variant(benchmark, variant, run.data))).complete


def settled(run: RunFolder, benchmark: Benchmark, variant: VariantKey, states: DataStates) -> bool:
    """Whether a variant is answered, and scored by today's rules, decided without reading the samples.

    False also where only the samples could decide it: a failed sample may have become answerable.
    """
    if not answered(run, benchmark, variant):
        return False
    summaries = _summaries(run, benchmark, variant)
    if not all(one is not None and one.get("n_failed") == 0 for one in summaries):
        return False
    noted = _noted(run).get(_name(benchmark, variant))
    state = states.of(benchmark, variant)
    return noted is not None and state is not None and noted == f"{ASKED}.{state}"


def scored(
    run: RunFolder, benchmark: Benchmark, variant: VariantKey, samples: Sequence[Sample], states: DataStates
) -> bool:
    """Whether the run's present answers to exactly these samples were scored by today's rules.

    If so, the state of the data files is recorded, so that `settled` recognises it without reading the samples.
    """
    summaries = _summaries(run, benchmark, variant)
    if None in summaries or len({one.get("samples") for one in summaries if one}) > 1:
        return False
    now = contents_hash(map(content_of, samples))
    if any(one.get("samples") != now for one in summaries if one):
        return False
    _note(run, benchmark, variant, states)
    return True


def _noted(run: RunFolder) -> dict[str, str]:
    """Return `benchmark.variant` -> the state of the data that the scores were made from."""
    try:
        noted = read_json(run.folder / SETTLED)
    except UserError:
        return {}
    return noted if isinstance(noted, dict) else {}


def _note(run: RunFolder, benchmark: Benchmark, variant: VariantKey, states: DataStates) -> None:
    noted, name = _noted(run), _name(benchmark, variant)
    state = states.of(benchmark, variant)
    if state is not None and noted.get(name) != (now := f"{ASKED}.{state}"):
        # Sorted, so that the file does not depend on the order of scoring or on interruptions.
        write_json(run.folder / SETTLED, dict(sorted({**noted, name: now}.items())))


def _summaries(run: RunFolder, benchmark: Benchmark, variant: VariantKey) -> list[dict[str, Any] | None]:
    """Return the summary by each rule set; None where it is missing or made by other rules or from other answers."""
    from mllm_eval.score import protocol_hash

    answers = run.answers_path(benchmark.name, answers_variant(benchmark, variant, run.data))
    digest = sha256_file(answers) if answers.is_file() else ""
    summaries: list[dict[str, Any] | None] = []
    for rules in benchmark.rules:
        summaries.append(None)
        path = run.summary_path(benchmark.name, rules, variant)
        if not digest or not path.is_file() or not run.scores_path(benchmark.name, rules, variant).is_file():
            continue
        try:
            summary = run.read_summary(path)
        except UserError:
            continue
        same = isinstance(summary, dict) and summary.get("answers") == digest
        # Summaries by older versions lack the counts of given and of empty answers.
        same = same and {"given", "n_empty"} <= summary.keys()
        if same and summary.get("protocol_hash") == protocol_hash(benchmark, rules, variant):
            summaries[-1] = summary
    return summaries


def score_answers(
    run: RunFolder, benchmark: Benchmark, variant: VariantKey, samples: Sequence[Sample], states: DataStates
) -> None:
    """Score a run's answers to a benchmark by each rule set that the benchmark has.

    A variant that differs only in how it counts is scored from the answers of the variant whose questions it shares.
    Nothing is written before all rule sets have scored.

    Raises:
        UserError: the answers do not belong to these samples, or the scorer fails.
    """
    from mllm_eval.score import count_empty, score_samples, summarize
    from mllm_eval.score.cleaning import clean_up_spaces

    path = run.answers_path(benchmark.name, answers_variant(benchmark, variant, run.data))
    answers = open_answers(path)
    digest, empty = sha256_file(path), count_empty(_Predictions(answers, str).values())
    by_rules = {
        rules: score_samples(
            benchmark, rules, samples, _Predictions(answers, clean_up_spaces if entry.clean_up_spaces else str)
        )
        for rules, entry in benchmark.rules.items()
    }
    summaries = {
        rules: summarize(benchmark, rules, samples, scores, variant, empty=empty) for rules, scores in by_rules.items()
    }
    contents = list(map(content_of, samples))
    for rules, scores in by_rules.items():
        pairs = Counter[tuple[str | None, str]]()
        lines = _lines(benchmark, scores, samples, contents, pairs)
        write_jsonl(run.scores_path(benchmark.name, rules, variant), lines)
        summary = {**asdict(summaries[rules]), "samples": contents_hash(contents), "answers": digest}
        summary["chance"] = _chance(run, benchmark, variant, summary["chance"])
        summary["given"] = counted(pairs)
        # Written last: the presence of a summary means that the scores are complete.
        write_json(run.summary_path(benchmark.name, rules, variant), summary)
    _note(run, benchmark, variant, states)


def _lines(
    benchmark: Benchmark,
    scores: Sequence[Score],
    samples: Sequence[Sample],
    contents: Sequence[str],
    pairs: Counter[tuple[str | None, str]],
) -> Iterator[dict[str, Any]]:
    """Yield one line per sample, and count each pair (parsed answer, target) in `pairs`."""
    for one, sample, content in zip(scores, samples, contents, strict=True):
        if one.score is not None:
            pairs[one.parsed, sample.target] += 1
        yield {**asdict(one), **_place(benchmark, sample), "content": content}


class _Predictions(Mapping[str, str | None]):
    """Maps a sample id to its answer's text, cleaned by `read`; to None for a failed sample."""

    def __init__(self, answers: Mapping[str, Answer], read: Callable[[str], str]) -> None:
        self._answers, self._read = answers, read

    def __getitem__(self, id_: str) -> str | None:
        answer = self._answers[id_]
        return self._read(answer.text) if answer.state == "ok" else None

    def __iter__(self) -> Iterator[str]:
        return iter(self._answers)

    def __len__(self) -> int:
        return len(self._answers)


def _chance(run: RunFolder, benchmark: Benchmark, variant: VariantKey, by_options: float) -> float:
    """Return the higher of two chance levels: a random option, and the data pin's best guess without the image."""
    return max(by_options, benchmark.pin(run.data, variant).chance or 0.0)


def _place(benchmark: Benchmark, sample: Sample) -> dict[str, str | None]:
    """Return the group, cluster and stratum of a sample, which statistics need besides its score."""
    return {"group": sample.group, "cluster": sample.cluster, "stratum": stratum_of(benchmark, sample)}


def _name(benchmark: Benchmark, variant: VariantKey) -> str:
    return f"{benchmark.name}.{variant}"

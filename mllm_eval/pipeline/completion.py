"""Evaluate a run or an external model by the same flow: only missing answers and scores are made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypedDict, Unpack

from mllm_eval.answers import Journal
from mllm_eval.catalog import LLM, Benchmark, Encoder, Given, Recipe
from mllm_eval.catalog.benchmark import answers_variant
from mllm_eval.catalog.variant import BLIND, VariantKey, size_of_table
from mllm_eval.distributed import decided, sharing
from mllm_eval.environment import settings
from mllm_eval.external import Dtype, ExternalModel
from mllm_eval.pipeline.asked import asked_benchmarks, asked_variants, rules_asked
from mllm_eval.pipeline.backends import BackendSource, ExternalSource, RunSource
from mllm_eval.pipeline.datasets import locked_or_told
from mllm_eval.pipeline.flow import train_missing, working
from mllm_eval.pipeline.inference import Inference, titled
from mllm_eval.pipeline.ledger import AskedVariant, Ledger
from mllm_eval.pipeline.pictures import conclude, tell_of_broken
from mllm_eval.pipeline.rehearsal import unsettled
from mllm_eval.pipeline.reporter import Reporter
from mllm_eval.pipeline.runscores import DataStates, score_answers, scored
from mllm_eval.pipeline.selection import subset_words
from mllm_eval.pipeline.sources import folders_of, needed, provide
from mllm_eval.run import Run, RunFolder
from mllm_eval.train import hold_to_its_data, is_trained

if TYPE_CHECKING:
    from mllm_eval.data.samples import Sample
    from mllm_eval.generate.server import Server


class Selection(TypedDict, total=False):
    """Which questions are asked.

    benchmarks: names, files or objects; by default those of the paper's table that have the data pin.
    blind: ask every question a second time without images (variant `blind`).
    variants: further variants of the benchmarks that have them; `all` stands for all of a benchmark's own.
    subset: number of questions to ask of the chosen benchmarks together, a stratified sample of them. Its answers and
        scores are stored separately from those of the full benchmarks.
    rules: the rule set that will be shown. Unknown names are refused before anything is computed.
    retry_failed: ask failed samples again, whatever the reason for their failure.
    """

    benchmarks: Sequence[Given | Benchmark] | None
    blind: bool
    variants: Sequence[str] | None
    subset: int | None
    rules: str | None
    retry_failed: bool


@settings()
def evaluate(
    encoder: Given | Encoder,
    recipe: Given | Recipe = "mini",
    llm: Given | LLM | None = None,
    seed: int | None = None,
    reporter: Reporter | None = None,
    server: str | None = None,
    **which: Unpack[Selection],
) -> Run:
    """Train an encoder's adapter, ask the benchmarks and score the answers; steps that are already done are skipped.

    Args:
        encoder, recipe, llm: names, paths to yaml files, or their contents. `llm` and `seed` default to the recipe's.
        server: address of a vLLM server that serves the run's LLM and answers in place of the engine.
        which: see `Selection`.

    Raises:
        UserError: an unknown name or bad input. Everything computed before the error is kept.
    """
    answering = _server_at(server)
    run = Run.of(encoder, recipe, llm, seed)
    chosen = _choose(run.data, which)

    def provide_data(reporter: Reporter) -> None:
        provide(needed(run.recipe, not is_trained(run), chosen.benchmarks), reporter)
        hold_to_its_data(run)

    def source(ledger: Ledger) -> BackendSource:
        return RunSource(run, lambda: train_missing(run, ledger), ledger, answering)

    _answer_and_score(run, chosen, source, provide_data, reporter)
    return run


@settings()
def evaluate_external(
    place: str | ExternalModel,
    data: str = "hub",
    dtype: Dtype = "float32",
    batch: int = 1,
    reporter: Reporter | None = None,
    **which: Unpack[Selection],
) -> ExternalModel:
    """Ask an external model the benchmarks and score its answers; steps that are already done are skipped.

    Args:
        place: a folder in the hub's format; or an `owner/name[@revision]` that `mllm-eval weights --model` has locked;
            or an `ExternalModel`, whose own data pin, dtype and batch size replace the arguments.
        data: the benchmarks' data pin.
        dtype: floating-point type in which the model computes.
        batch: number of questions in one batch.
        which: see `Selection`.

    Raises:
        UserError: no such model or data, or a model that cannot answer questions. Answers given before it are kept.
    """
    if isinstance(place, ExternalModel):
        data = place.data_pin
    chosen = _choose(data, which)
    model = place if isinstance(place, ExternalModel) else ExternalModel.of(place, data, dtype, batch)

    def provide_data(reporter: Reporter) -> None:
        provide(folders_of(chosen.benchmarks, data), reporter)

    _answer_and_score(model, chosen, lambda ledger: ExternalSource(model, ledger), provide_data, reporter)
    return model


@dataclass(frozen=True)
class _Chosen:
    """Benchmarks of a data pin, the variants of each, and a sentence about the subset (empty without one)."""

    data: str
    benchmarks: list[Benchmark]
    variants: dict[str, list[VariantKey]]
    note: str
    retry_failed: bool = False


def _choose(data: str, which: Selection) -> _Chosen:
    names, subset = which.get("benchmarks"), which.get("subset")
    if (rules := which.get("rules")) is not None:
        rules_asked(rules, names, data)
    benchmarks = asked_benchmarks(names, data)
    blind = [BLIND.name] if which.get("blind") else []
    wanted = asked_variants(benchmarks, [*blind, *(which.get("variants") or [])])
    size = size_of_table(subset, [one.name for one in benchmarks] if names else None)
    variants = {name: [VariantKey.of(variant, size) for variant in own] for name, own in wanted.items()}
    note = "" if size == subset else subset_words(subset, size, len(benchmarks))
    return _Chosen(data, benchmarks, variants, note, which.get("retry_failed", False))


def _answer_and_score(
    row: RunFolder,
    chosen: _Chosen,
    source: Callable[[Ledger], BackendSource],
    provide_data: Callable[[Reporter], None],
    reporter: Reporter | None,
) -> None:
    with working(row, reporter) as ledger, sharing() as share:
        scores = _Scores(row, ledger, DataStates(chosen.data))
        if chosen.note:
            ledger.reporter.say(chosen.note)

        def prepare() -> dict[str, list[VariantKey]]:
            provide_data(ledger.reporter)
            if chosen.retry_failed:
                _drop_failed(row, chosen, ledger.reporter)
            for benchmark in chosen.benchmarks:
                locked_or_told([benchmark], chosen.data, chosen.variants[benchmark.name])
            left = {one.name: unsettled(row, one, chosen.variants[one.name], scores.states)
                    for one in chosen.benchmarks}  # fmt: skip
            tell_of_broken(row, chosen.benchmarks, left, ledger.reporter)
            return left

        left = decided(prepare)
        wanted = []
        for benchmark in chosen.benchmarks:
            for variant in left[benchmark.name]:
                asked = answers_variant(benchmark, variant, chosen.data)
                if (benchmark.name, asked) not in scores.readers:
                    wanted.append((benchmark, asked))
                scores.readers.setdefault((benchmark.name, asked), []).append(variant)
        Inference(row, source(ledger), ledger, share).answer(wanted, scores.make)
        conclude(row, ledger, chosen.benchmarks, chosen.variants)


def _drop_failed(row: RunFolder, chosen: _Chosen, reporter: Reporter) -> None:
    asked = {
        (benchmark.name, answers_variant(benchmark, variant, chosen.data))
        for benchmark in chosen.benchmarks
        for variant in chosen.variants[benchmark.name]
    }
    dropped = sum(Journal(row.answers_path(*one)).drop_failed() for one in sorted(asked, key=str))
    reporter.say(f"{dropped:,} failed samples are asked again" if dropped else "no sample failed that could be retried")


@dataclass
class _Scores:
    """Makes missing scores: `readers` maps an answered variant to all variants that are scored from its answers."""

    row: RunFolder
    ledger: Ledger
    states: DataStates
    readers: dict[tuple[str, VariantKey], list[VariantKey]] = field(default_factory=dict)

    def make(self, benchmark: Benchmark, asked: VariantKey, samples: Sequence[Sample]) -> None:
        # Variants that share answers have the same samples: see `answers_variant`.
        for variant in self.readers[benchmark.name, asked]:
            if not scored(self.row, benchmark, variant, samples, self.states):
                title = titled(benchmark, variant)
                with self.ledger.step(f"scores: {title}", "scores", of=AskedVariant(benchmark.name, variant)):
                    score_answers(self.row, benchmark, variant, samples, self.states)


def _server_at(url: str | None) -> Server | None:
    if url is None:
        return None
    from mllm_eval.generate.server import Server

    return Server(url)

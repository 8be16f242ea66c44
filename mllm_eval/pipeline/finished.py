"""The flow of a finished model: answers, scores, and nothing to train."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING

from mllm_eval.adapters import weights_folder
from mllm_eval.answers import Journal
from mllm_eval.catalog import Benchmark, Given
from mllm_eval.catalog.variant import VariantKey, size_of_table
from mllm_eval.distributed import decided, sharing
from mllm_eval.environment import device, repeatable, settings
from mllm_eval.errors import UserError
from mllm_eval.finished import Dtype, Finished
from mllm_eval.generate.asking import outdated, outdated_words
from mllm_eval.generate.finished import answer_finished, pending_finished
from mllm_eval.generate.positions import positions_in
from mllm_eval.pipeline.answering import titled
from mllm_eval.pipeline.asked import asked_benchmarks, rules_asked
from mllm_eval.pipeline.flow import working
from mllm_eval.pipeline.ledger import Ledger, Part
from mllm_eval.pipeline.pictures import conclude, tell_of_broken
from mllm_eval.pipeline.rehearsal import unsettled
from mllm_eval.pipeline.reporter import Reporter
from mllm_eval.pipeline.scoring import States, score_answers, scored
from mllm_eval.pipeline.snapshots import locked_or_told
from mllm_eval.pipeline.sources import provide
from mllm_eval.pipeline.subset import asked_samples, subset_words
from mllm_eval.storage import data_home

if TYPE_CHECKING:
    from mllm_eval.data.samples import Sample
    from mllm_eval.generate.finished import FinishedModel


@settings()
def evaluate_finished(
    place: str | Finished,
    data: str = "hub",
    benchmarks: Sequence[Given | Benchmark] | None = None,
    blind: bool = False,
    reporter: Reporter | None = None,
    dtype: Dtype = "float32",
    batch: int = 1,
    subset: int | None = None,
    rules: str | None = None,
) -> Finished:
    """Ask a finished model the benchmarks and score its answers: whatever of it is missing.

    Args:
        place: a folder in the hub's format, or `owner/name[@revision]` that `mllm-eval weights --model` locked; or a
            model that knows data, dtype and batch itself.
        data: the benchmarks' data pin.
        benchmarks: names, files or objects; by default those of the paper's table that have the pin.
        subset: ask so many questions of the chosen benchmarks, a stratified part; answers and scores are kept apart.
        rules: the rule set that will be shown; one that no benchmark has is refused before anything is asked.

    Raises:
        UserError: no such model or data, or a model that cannot be asked; what was answered stays.
    """
    if isinstance(place, Finished):
        data, batch = place.data_pin, place.batch
    if rules is not None:
        rules_asked(rules, benchmarks, data)
    model = place if isinstance(place, Finished) else Finished.of(place, data, dtype, batch)
    asked = asked_benchmarks(benchmarks, data)
    size = size_of_table(subset, [one.name for one in asked] if benchmarks else None)
    variants = [str(VariantKey.of(name, size)) for name in (["default", "blind"] if blind else ["default"])]
    with working(model, reporter) as ledger, sharing() as share:
        states = States(data)
        if size != subset:
            ledger.reporter.say(subset_words(subset, size, len(asked)))

        def prepare() -> dict[str, list[str]]:
            local = [one for one in asked if one.pin(data).source != "hub"]
            paths = [data_home() / part.repo for one in local for part in one.pin(data).tables().values()]
            provide(paths, ledger.reporter)
            locked_or_told(asked, data, variants)
            found = {one.name: unsettled(model, one, variants, states) for one in asked}
            tell_of_broken(model, asked, found, ledger.reporter)
            return found

        left = decided(prepare)
        loaded = _Loaded(model, ledger)
        for benchmark in asked:
            for variant in left[benchmark.name]:
                samples = asked_samples(benchmark, data, variant)
                journal = Journal(model.answers_path(benchmark.name, variant), share.rank)
                limit = benchmark.generation.max_new_tokens
                title = titled(benchmark, variant)
                if decided(partial(_open, model, samples, journal, limit, title, ledger.reporter)):
                    ready = loaded.model
                    part = Part(f"answers: {title}", benchmark.name, variant, len(samples))
                    with ledger.step(f"answers: {title}", "answers", parts=[part]) as progress:
                        answer_finished(ready, samples, limit, journal, progress, batch, share)
                if not share.rank and not scored(model, benchmark, variant, samples, states):
                    with ledger.step(f"scores: {title}", "scores", benchmark=benchmark.name, variant=variant):
                        score_answers(model, benchmark, variant, samples, states)
        conclude(model, ledger, asked, {one.name: variants for one in asked})
    return model


def _open(
    model: Finished, samples: Sequence[Sample], journal: Journal, limit: int, title: str, reporter: Reporter
) -> bool:
    journal.hold_to(limit)
    if not len(journal.done()):
        return True
    longest = _positions(model)
    left = pending_finished(samples, journal, model.overruled, longest and longest - limit)
    if count := outdated(left, journal):
        reporter.say(outdated_words(title, count))
    return bool(left) or not journal.complete


def _positions(model: Finished) -> int | None:
    try:
        return positions_in(weights_folder(model.weights))
    except UserError:
        # Not on this machine: what was asked before is all there is to say.
        return None


class _Loaded:
    """The model, loaded when the first question is asked."""

    def __init__(self, chosen: Finished, ledger: Ledger) -> None:
        self.chosen = chosen
        self.ledger = ledger

    @cached_property
    def model(self) -> FinishedModel:
        repeatable(0)
        from mllm_eval.generate.finished import FinishedModel

        with self.ledger.step("load the model", "load"):
            return FinishedModel(weights_folder(self.chosen.weights), self.chosen.dtype, device())

"""Broken images: found before anything is trained, and of benchmarks counted where an answer failed for them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from mllm_eval.answers import open_answers
from mllm_eval.catalog import Benchmark, Recipe
from mllm_eval.catalog.benchmark import answers_variant
from mllm_eval.catalog.variant import VariantKey
from mllm_eval.data.snapshots import load_samples
from mllm_eval.data.survey import known_survey, survey
from mllm_eval.data.trainingimages import training_survey
from mllm_eval.decoding import Decoding
from mllm_eval.errors import UserError
from mllm_eval.pipeline.inference import titled
from mllm_eval.pipeline.ledger import Ledger
from mllm_eval.pipeline.reporter import Reporter, Silent
from mllm_eval.pipeline.runscores import answered
from mllm_eval.run import RunFolder


def look_at_images(
    benchmarks: Iterable[Benchmark], pin: str, reporter: Reporter | None = None, recipe: Recipe | None = None
) -> None:
    """Say of each benchmark what its images are like once decoded; looked at once, kept beside the locks.

    Of what a recipe trains on a part is looked at, each time.

    Raises:
        UserError: images that can't be decoded, of a training set more than its recipe skips, when all have been
            looked at; what was fetched and locked stays.
    """
    listener, faults = reporter or Silent(), []
    for benchmark in benchmarks:
        kept = load_samples(benchmark, pin).kept
        with listener.step(f"look: {benchmark.name} (images)") as progress:
            surveyed = survey(benchmark.name, benchmark.pin_name(pin), kept, progress)
        listener.say(f"{benchmark.name}: {surveyed.sentence()}")
        faults += [surveyed.fault(benchmark.name, kept)] if surveyed.broken else []
    faults += _training_faults(recipe, listener) if recipe else []
    if faults:
        raise UserError(". ".join(faults))


def _training_faults(recipe: Recipe, listener: Reporter) -> list[str]:
    """Say of each training set, once where both stages read it, what a part of its images is like."""
    faults = []
    sets = {(one.path, one.images, *one.exclude): one for one in (*recipe.stage1.data, *recipe.stage2.data)}
    for data in sets.values():
        with listener.step(f"look: {Path(data.path).name} (rows)") as progress:
            surveyed = training_survey(data, Decoding(recipe.upright, recipe.background), progress)
        listener.say(f"{surveyed.name}: {surveyed.sentence()}")
        faults.append(surveyed.fault(data.skip_broken))
    return [fault for fault in faults if fault]


def tell_of_broken(
    run: RunFolder, benchmarks: Sequence[Benchmark], left: Mapping[str, Sequence[VariantKey]], reporter: Reporter
) -> None:
    """Say which images of what is left to be answered can't be decoded: a line a benchmark and pin.

    Data that are read as they are have each image decoded, unless `mllm-eval data` did that and they are the same. Of
    data of the hub, which are locked, what was found then is said again.
    """
    pins: dict[tuple[str, str], tuple[Benchmark, VariantKey]] = {}
    for one in benchmarks:
        for variant in left[one.name]:
            if one.variant(variant).images != "none" and not answered(run, one, variant):
                pins.setdefault((one.name, one.pin_name(run.data, variant)), (one, variant))
    local = {key: chosen for key, chosen in pins.items() if chosen[0].data[key[1]].source == "local"}
    for name, pin in pins:
        surveyed = known_survey(name, pin)
        if (name, pin) not in local and surveyed is not None and surveyed.broken:
            reporter.say(f"{name}: {surveyed.sentence()}; the questions that show them count as failed")
    if not local:
        return
    with reporter.step("look: images of the benchmarks") as progress:
        for done, ((name, pin), (benchmark, variant)) in enumerate(local.items()):
            progress(done, len(local))
            kept = load_samples(benchmark, run.data, variant).kept
            if fault := survey(name, pin, kept).fault(name, kept):
                reporter.say(fault)


def conclude(
    run: RunFolder, ledger: Ledger, benchmarks: Iterable[Benchmark], chosen: Mapping[str, Sequence[VariantKey]]
) -> None:
    """Say what has failed, or else that a run was complete before."""
    failed = list(failures(run, benchmarks, chosen))
    for line in failed:
        ledger.reporter.say(line)
    if not ledger.steps and not failed:
        ledger.reporter.say(f"{run.name}: complete, nothing to do")


def failures(
    run: RunFolder, benchmarks: Iterable[Benchmark], chosen: Mapping[str, Sequence[VariantKey]]
) -> Iterator[str]:
    """A line for each benchmark and variant with samples that have no answer: how many, and why the first."""
    for benchmark in benchmarks:
        rules = next(iter(benchmark.rules))
        for variant in chosen[benchmark.name]:
            try:
                summary = run.read_summary(run.summary_path(benchmark.name, rules, variant))
                if not summary["n_failed"]:
                    continue
                answers = open_answers(run.answers_path(benchmark.name, answers_variant(benchmark, variant, run.data)))
            except (UserError, KeyError, TypeError):
                continue
            first = next((answer for answer in answers.values() if answer.state == "error"), None)
            why = f": sample {first.id!r}, {first.reason}" if first else ""
            counted = f"{summary['n_failed']:,} of {summary['n']:,} samples failed"
            yield f"{titled(benchmark, variant)}: {counted}, which no number counts{why}"

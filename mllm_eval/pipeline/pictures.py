"""Find broken images before training begins, and report the samples that failed because of them."""

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
    """Decode the images of each benchmark and report the result, which is stored next to the locks.

    Of a recipe's training images only a sample is decoded, anew at each call.

    Raises:
        UserError: after all sets were checked, where a benchmark image can't be decoded, or where a training set has
            more broken images than its recipe lets it skip. Fetched and locked files are kept.
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
    """Decode a sample of each training set's images and report it; a set that both stages read is checked once."""
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
    """Report broken images of the questions still to be answered, in one line per benchmark and pin.

    Images of local data are decoded here, unless an earlier check covers the same files. Hub data are locked, so the
    finding of `mllm-eval data` still holds and is repeated.
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
    """Report failed samples; without any, report a run that had nothing left to do as complete."""
    failed = list(failures(run, benchmarks, chosen))
    for line in failed:
        ledger.reporter.say(line)
    if not ledger.steps and not failed:
        ledger.reporter.say(f"{run.name}: complete, nothing to do")


def failures(
    run: RunFolder, benchmarks: Iterable[Benchmark], chosen: Mapping[str, Sequence[VariantKey]]
) -> Iterator[str]:
    """Yield a line for each benchmark and variant with failed samples: their number, and the first one's reason."""
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

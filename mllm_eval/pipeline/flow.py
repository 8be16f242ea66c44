"""Train, score and provide data, each as a step of its own that makes only what it needs and lacks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mllm_eval.catalog import LLM, Benchmark, Encoder, Given, Recipe, load_benchmark, load_recipe
from mllm_eval.catalog.benchmark import answers_variant
from mllm_eval.catalog.variant import VariantKey, parse_stem
from mllm_eval.data.snapshots import load_samples
from mllm_eval.distributed import decided, meet, rank
from mllm_eval.environment import cores, repeatable, settings
from mllm_eval.errors import UserError
from mllm_eval.locks import FileLock
from mllm_eval.pipeline.asked import asked_benchmarks
from mllm_eval.pipeline.datasets import lock_data, of_the_hub
from mllm_eval.pipeline.inference import titled
from mllm_eval.pipeline.ledger import AskedVariant, Ledger
from mllm_eval.pipeline.pictures import look_at_images
from mllm_eval.pipeline.reporter import Reporter, Silent
from mllm_eval.pipeline.runscores import DataStates, score_answers
from mllm_eval.pipeline.selection import asked_samples
from mllm_eval.pipeline.sources import folders_of, needed, provide
from mllm_eval.run import Run, RunFolder
from mllm_eval.storage import remove_temporary
from mllm_eval.train import clear_checkpoints, hold_to_its_data, is_trained, prepare, train


@settings()
def train_run(
    encoder: Given | Encoder,
    recipe: Given | Recipe = "mini",
    llm: Given | LLM | None = None,
    seed: int | None = None,
    reporter: Reporter | None = None,
) -> Run:
    """Run the missing part of both training stages; arguments and errors are those of `evaluate`."""
    run = Run.of(encoder, recipe, llm, seed)
    with working(run, reporter) as ledger:
        meet()

        def prepare() -> bool:
            if is_trained(run):
                return False
            provide(needed(run.recipe, True, []), ledger.reporter)
            hold_to_its_data(run)
            return True

        if decided(prepare):
            train_missing(run, ledger)
    return run


@settings()
def prepare_run(
    encoder: str,
    recipe: str = "mini",
    llm: str | None = None,
    seed: int | None = None,
    reporter: Reporter | None = None,
) -> Run:
    """Do the part of training that needs no GPU: check the inputs, and tokenise both stages on all available cores."""
    run = Run.of(encoder, recipe, llm, seed)
    with working(run, reporter) as ledger:
        if not is_trained(run):
            provide(needed(run.recipe, True, []), ledger.reporter)
            hold_to_its_data(run)
            prepare(run, ledger.reporter.say, cores())
    return run


@settings()
def score_run(run: RunFolder, reporter: Reporter | None = None) -> list[str]:
    """Score all finished answers of a run again, without a model. Return the titles of the scored variants.

    Raises:
        UserError: the answers do not belong to the samples, or the run has no finished answers.
    """
    done = []
    states = DataStates(run.data)
    with working(run, reporter) as ledger:
        for path in sorted((run.folder / "answers").glob("*.jsonl")):
            name, variant = parse_stem(path.stem)
            benchmark = load_benchmark(name)
            for counted in _read_by(run, benchmark, variant):
                title = titled(benchmark, counted)
                with ledger.step(f"scores: {title}", "scores", of=AskedVariant(benchmark.name, counted)):
                    states.of(benchmark, counted)
                    score_answers(run, benchmark, counted, asked_samples(benchmark, run.data, counted), states)
                done.append(title)
    if not done:
        raise UserError(f"{run.folder}: no finished answers; `mllm-eval eval` makes them")
    return done


def provide_data(recipe: str = "mini", reporter: Reporter | None = None) -> bool:
    """Make, fetch or check a recipe's training data and benchmarks. Return True if anything was made or fetched."""
    loaded = load_recipe(recipe)
    asked = asked_benchmarks(None, loaded.data)
    made = provide(needed(loaded, True, asked), reporter or Silent(), check=True)
    made = lock_data(of_the_hub(asked, loaded.data), loaded.data, reporter=reporter) or made
    look_at_images(asked, loaded.data, reporter, loaded)
    return made


def provide_benchmarks(
    benchmarks: Sequence[str] | None = None,
    pin: str = "hub",
    folder: Path | None = None,
    offline: bool = False,
    reporter: Reporter | None = None,
) -> bool:
    """Provide and check a data pin of benchmarks. Return True if anything had to be made, fetched or locked.

    Args:
        benchmarks: names; by default those of the paper's table that have the pin.
        pin: `hub`, `mini`, or another name that the benchmarks' yaml files have under `data`.
        folder: take hub data from this folder instead of fetching it.
        offline: fetch nothing; compare the local files with their lock, byte for byte.

    Raises:
        UserError: an unknown name; data that can't be provided; or data that contradict the yaml or the lock.
    """
    asked = asked_benchmarks(benchmarks, pin)
    if not asked:
        raise UserError(f"no benchmark has data '{pin}'; `mllm-eval data --data hub` fetches the sixteen of the paper")
    hub = of_the_hub(asked, pin)
    local = [benchmark for benchmark in asked if benchmark not in hub]
    if local and (folder is not None or offline):
        raise UserError(f"--from and --offline are for data of the hub; '{pin}' of {local[0].name} is not")
    made = provide(folders_of(local, pin), reporter or Silent(), check=True) if local else False
    for benchmark in local:
        with (reporter or Silent()).step(f"check: {benchmark.name}"):
            load_samples(benchmark, pin)
    made = lock_data(hub, pin, folder, offline, reporter) or made
    look_at_images(asked, pin, reporter)
    return made


@contextmanager
def working(run: RunFolder, reporter: Reporter | None) -> Iterator[Ledger]:
    """Hold the lock of a run's folder, write its config, and yield the ledger that records its steps."""
    if rank():
        # Only rank 0 holds the lock, writes files and reports; the other ranks compute under its lock.
        yield Ledger(run.folder, Silent(), kept=False)
        return
    listener = reporter or Silent()
    lock = FileLock(run.folder / ".lock", lambda: listener.say(f"waiting: another process works on {run.name}"))
    with lock:
        # With the lock held, any temporary file here was left by a killed process.
        remove_temporary(run.folder)
        clear_checkpoints(run)
        run.write_config()
        yield Ledger(run.folder, listener, begin=run.note_session)


def train_missing(run: Run, ledger: Ledger) -> None:
    """Train a run unless it is trained; an interrupted training resumes."""
    if is_trained(run):
        return
    for one in run.earlier_here():
        ledger.reporter.say(f"run {one} learnt other tokens of the template {run.recipe.template}: trained again")
    repeatable(run.seed)
    from mllm_eval.kernels import kernels_here

    with ledger.step("training", "training", kernels=kernels_here(run.recipe.kernels)) as progress:
        train(run, progress, ledger.reporter.say)


def _read_by(run: RunFolder, benchmark: Benchmark, variant: VariantKey) -> list[VariantKey]:
    """Return the variants to score from these answers: `variant` itself, and those scored from them before."""
    others = [
        other
        for other in map(variant.named, benchmark.variants)
        if answers_variant(benchmark, other, run.data) == variant != other
        and any(run.summary_path(benchmark.name, rules, other).is_file() for rules in benchmark.rules)
    ]
    return [variant, *others]

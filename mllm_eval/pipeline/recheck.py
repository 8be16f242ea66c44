"""Answer a run's questions again by the engine and by the reference loop, without changing the run's answers."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from mllm_eval.answers import Journal
from mllm_eval.catalog import Benchmark, load_benchmark
from mllm_eval.catalog.variant import BLIND, DEFAULT, parse_stem
from mllm_eval.environment import device, repeatable, settings
from mllm_eval.errors import UserError
from mllm_eval.generate import Task, TemplateFormat
from mllm_eval.pipeline.asked import asked_benchmarks
from mllm_eval.pipeline.inference import titled
from mllm_eval.pipeline.reporter import Reporter, Silent
from mllm_eval.pipeline.selection import asked_samples
from mllm_eval.pipeline.sources import folders_of, provide
from mllm_eval.run import Run
from mllm_eval.train import is_trained

if TYPE_CHECKING:
    from mllm_eval.generate.determinism import AnswerAgreement


@settings()
def compare_engines(
    run: Run, samples: int | None = None, reporter: Reporter | None = None
) -> dict[str, AnswerAgreement]:
    """Compare the engine's answers with those of the reference loop; return benchmark -> agreement.

    The questions are those of the table's benchmarks and of others that the run has answered, and also the variant
    `blind` where the run has answered it. About `samples` questions are asked per benchmark and variant; all where it
    is None. Batches are planned with the run's saved limits. Missing data that this installation can render are
    rendered first.

    Raises:
        UserError: the run is not trained, no benchmark has its data pin, or missing data.
    """
    listener = reporter or Silent()
    if not is_trained(run):
        raise UserError(f"{run.name} is not trained; `mllm-eval train {run.encoder.name}` does that")
    benchmarks = _benchmarks_of(run)
    provide(folders_of(benchmarks, run.data), listener)
    repeatable(run.seed)
    import torch

    from mllm_eval.features import Features
    from mllm_eval.generate.backoff import kept_limits
    from mllm_eval.generate.determinism import chosen, compare_answers
    from mllm_eval.kernels import use_kernels
    from mllm_eval.model import load_checkpoint

    model = load_checkpoint(run.checkpoint, getattr(torch, run.recipe.dtype), encoder=False)
    use_kernels(model, run.recipe.kernels).to(device())  # type: ignore[arg-type]  # transformers wraps it without its types
    features, agreements = Features.of(run), {}
    with tempfile.TemporaryDirectory() as folder:
        kept = run.answers_path("limits").with_suffix(".json")
        limits = kept_limits(kept if kept.is_file() else Path(folder) / "limits.json", model)
        for benchmark in benchmarks:
            for variant in (DEFAULT, BLIND):
                if variant != DEFAULT and not run.answers_path(benchmark.name, variant).is_file():
                    continue
                name, own = titled(benchmark, variant), chosen(asked_samples(benchmark, run.data, variant), samples)
                none, prompts = Journal(Path(folder) / "none"), TemplateFormat(run.recipe.template)
                task = Task(own, benchmark.generation.max_new_tokens, none, prompts, name, variant)
                with listener.step(f"both ways: {name}") as progress:
                    agreements[name] = compare_answers(model, [task], run.recipe.template, features, limits, progress)
    return agreements


def _benchmarks_of(run: Run) -> list[Benchmark]:
    """The table's benchmarks, and after them others whose answers the run has. Raises UserError if there are none."""
    table = asked_benchmarks(None, run.data)
    answered = {parse_stem(path.stem)[0] for path in (run.folder / "answers").glob("*.jsonl")}
    others = [load_benchmark(name) for name in sorted(answered - {benchmark.name for benchmark in table})]
    if not (table or others):
        raise UserError(f"{run.name} has no answers, and none of the table's benchmarks has data '{run.data}'; "
                        "`mllm-eval eval ... --benchmarks` asks others")  # fmt: skip
    return [*table, *others]

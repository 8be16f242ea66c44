"""Questions of the miniature and a run's answers to them, as any client can read them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from mllm_eval import evaluate
from mllm_eval.answers import Journal
from mllm_eval.catalog import Benchmark
from mllm_eval.catalog.variant import DEFAULT, SMALLEST, VariantKey, parse_stem
from mllm_eval.errors import UserError
from mllm_eval.generate import TemplateFormat
from mllm_eval.generate.request import write_request
from mllm_eval.pipeline.asked import asked_benchmarks
from mllm_eval.pipeline.selection import asked_samples
from mllm_eval.run import Run
from mllm_eval.saved import saved_run

RECIPE = Path(__file__).parent.parent / "recipes" / "peers.yaml"


def answered_run(name: str | None) -> Run:
    """The saved run of a name; without one mini-clip, which LLaVA can say, briefly trained and asked."""
    if name is not None:
        return saved_run(name)
    run = evaluate("mini-clip", recipe=RECIPE, subset=SMALLEST, progress=True).run
    assert isinstance(run, Run)
    return run


def write_questions(run: Run, folder: Path, each: int) -> dict[str, str]:
    """Write `each` questions of every benchmark that a run has answered to questions.jsonl, their images beside it.

    Returns the run's own answers by the ids that the questions have there. Raises UserError where it has none.
    """
    folder.mkdir(parents=True)
    lines, own = [], {}
    prompts = TemplateFormat(run.recipe.template)
    for benchmark, variant in _answered(run):
        limit = benchmark.generation.max_new_tokens
        answers, samples = Journal(run.answers_path(benchmark.name, variant)).done(), []
        for sample in asked_samples(benchmark, run.data, variant):
            answer = answers.get(sample.id)
            # Of data that was made anew since, the answers are to other questions.
            wanted = write_request(sample, prompts, limit).key
            if sample.images and answer and answer.state == "ok" and (answer.prompt, answer.images) == wanted:
                samples.append(sample)
        # From all over the benchmark, not several of one image.
        for sample in samples[:: max(1, len(samples) // each)][:each]:
            names = []
            for image in sample.images:
                names.append(f"{image.sha256}.png")
                # What the run has seen: turned and in RGB, whatever the data set's file was.
                image.load().save(folder / names[-1])
            id_ = f"{benchmark.name}/{sample.id}"
            lines.append({"id": id_, "question": sample.prompt, "images": names, "limit": limit})
            own[id_] = answers[sample.id].text
    if not own:
        raise UserError(f"{run.name} has answered nothing yet; `mllm-eval eval` with its encoder and recipe does that")
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    (folder / "questions.jsonl").write_text(text, encoding="utf-8")
    return own


def _answered(run: Run) -> Iterator[tuple[Benchmark, VariantKey]]:
    """Each benchmark of which a run has answers, and the largest part of its questions that has any."""
    for benchmark in asked_benchmarks(None, run.data):
        files = run.answers_path(benchmark.name).parent.glob(f"{benchmark.name}*.jsonl")
        found = [parse_stem(file.stem) for file in files]
        mine = [one for name, one in found if name == benchmark.name and one.name == DEFAULT.name]
        if mine:
            yield benchmark, max(mine, key=lambda one: one.subset or sys.maxsize)

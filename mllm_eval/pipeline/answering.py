"""Answers of a run, where they are missing. Model and encoder are loaded only if something is asked."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING

from mllm_eval.answers import Journal
from mllm_eval.catalog import Benchmark
from mllm_eval.data.samples import ImageRef, Sample
from mllm_eval.environment import device, repeatable
from mllm_eval.errors import UserError
from mllm_eval.generate import answer, pending, shared_answers
from mllm_eval.pipeline.ledger import Ledger
from mllm_eval.run import Run

if TYPE_CHECKING:
    from mllm_eval.features import Features
    from mllm_eval.model import VLM


class Respondent:
    """A trained run that answers. Making one costs nothing; `ready` sees to the training first."""

    def __init__(self, run: Run, ready: Callable[[], None], ledger: Ledger) -> None:
        self.run = run
        self.ready = ready
        self.ledger = ledger

    @cached_property
    def model(self) -> VLM:
        """The checkpoint, for evaluation."""
        self.ready()
        repeatable(self.run.seed)
        from mllm_eval.model import load_checkpoint

        with self.ledger.step("load the checkpoint"):
            model = load_checkpoint(self.run.checkpoint)
            model.to(device())  # type: ignore[arg-type]  # transformers wraps it without its types
            return model

    @cached_property
    def features(self) -> Features:
        """The encoder's features of any image, from the store where it has them."""
        repeatable(self.run.seed)
        from mllm_eval.features import Features

        return Features.of(self.run)

    def respond(self, benchmark: Benchmark, variant: str, samples: list[Sample]) -> bool:
        """Answer what has no answer yet; False if there was nothing to do.

        A variant, or a part of one, that asks questions as another does takes that one's answers to them.
        """
        journal = Journal(self.run.answers_path(benchmark.name, variant))
        template, limit = self.run.recipe.template, benchmark.generation.max_new_tokens
        if dropped := journal.hold_to(limit):
            self.ledger.reporter.say(f"{titled(benchmark, variant)}: {dropped} answers had another limit of tokens")
        if journal.complete and not pending(samples, template, journal) and not _mended(journal, samples):
            return False
        if not journal.done():
            shared = shared_answers(samples, template, self._others(benchmark, journal, limit))
            if shared:
                journal.append(shared)
                if not pending(samples, template, journal):
                    journal.finish(sample.id for sample in samples)
                    return True
        model = self.model
        name = titled(benchmark, variant)
        self._encode(name, samples)
        with self.ledger.step(f"answers: {name}", samples=len(samples)) as progress:
            answer(
                model,
                samples,
                template,
                self.features,
                limit,
                journal,
                progress,
            )
        return True

    def _others(self, benchmark: Benchmark, own: Journal, limit: int) -> list[Journal]:
        """The other finished journals of the benchmark, the default first, under the same limit."""
        default = self.run.answers_path(benchmark.name)
        paths = [default, *sorted(default.parent.glob(f"{benchmark.name}.*.jsonl"))]
        finished = [journal for journal in map(Journal, paths) if journal.complete and journal.path != own.path]
        for journal in finished:
            journal.hold_to(limit)
        return [journal for journal in finished if journal.complete]

    def _encode(self, name: str, samples: list[Sample]) -> None:
        images = [image for sample in samples for image in sample.images]
        missing = self.features.store.missing(image.sha256 for image in images)
        if not missing:
            return

        def broken(image: ImageRef, problem: Exception) -> None:
            # The samples that show it fail when they are asked, with this reason in the journal.
            self.ledger.reporter.say(f"broken image: {problem}")

        with self.ledger.step(f"features: {name}", images=len(missing)) as progress:
            self.features.fill(images, progress, broken)


def titled(benchmark: Benchmark, variant: str) -> str:
    """A benchmark's name, its variant in brackets."""
    return benchmark.name if variant == "default" else f"{benchmark.name} ({variant})"


def _mended(journal: Journal, samples: list[Sample]) -> bool:
    """Whether a sample that failed has images that can all be read by now. Loads no model to find out."""
    done = journal.done()
    failed = [sample for sample in samples if done[sample.id].state == "error"]
    return any(all(_readable(image) for image in sample.images) for sample in failed)


def _readable(image: ImageRef) -> bool:
    try:
        image.load()
    except (UserError, OSError, ValueError):
        return False
    return True

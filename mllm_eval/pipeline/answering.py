"""Answers of a run, where they are missing. Model and encoder are loaded only if something is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import count
from typing import TYPE_CHECKING

from mllm_eval.answers import Journal
from mllm_eval.catalog import Benchmark
from mllm_eval.catalog.variant import VariantKey
from mllm_eval.data.samples import ImageRef, Sample, shown
from mllm_eval.distributed import Share, decided
from mllm_eval.environment import device, repeatable
from mllm_eval.features.together import fill_together
from mllm_eval.generate import Asked, Limits, answer_many, is_open, pending, shared_answers, together
from mllm_eval.generate.asking import outdated, outdated_words
from mllm_eval.generate.positions import positions_in
from mllm_eval.pipeline.ledger import Ledger, Part
from mllm_eval.pipeline.subset import asked_samples
from mllm_eval.progress import Progress
from mllm_eval.run import Run

if TYPE_CHECKING:
    from mllm_eval.features import Features
    from mllm_eval.generate.server import Server
    from mllm_eval.model import VLM


class Respondent:
    """A trained run that answers. Making one costs nothing; `ready` sees to the training first."""

    def __init__(self, run: Run, ready: Callable[[], None], ledger: Ledger, server: Server | None = None) -> None:
        """`server` answers in the engine's place; images are encoded and projected here all the same."""
        self.run = run
        self.ready = ready
        self.ledger = ledger
        self.server = server

    @cached_property
    def model(self) -> VLM:
        """The checkpoint, for evaluation."""
        self.ready()
        repeatable(self.run.seed)
        import torch

        from mllm_eval.model import load_checkpoint

        with self.ledger.step("load the checkpoint", "load"):
            model = load_checkpoint(self.run.checkpoint, getattr(torch, self.run.recipe.dtype), encoder=False)
            model.to(device())  # type: ignore[arg-type]  # transformers wraps it without its types
            return model

    @cached_property
    def positions(self) -> int | None:
        """How many tokens the trained LLM can hold in a row, where its checkpoint says so."""
        return positions_in(self.run.checkpoint)

    @cached_property
    def features(self) -> Features:
        """The encoder's features of any image, from the store where it has them."""
        repeatable(self.run.seed)
        from mllm_eval.features import Features

        return Features.of(self.run)

    def respond(
        self,
        wanted: Sequence[tuple[Benchmark, str]],
        finished: Callable[[Benchmark, str, Sequence[Sample]], None],
        share: Share | None = None,
    ) -> None:
        """Answer what has no answer yet to these variants of benchmarks.

        What shares images is answered together, the rest one after the other as wanted. `finished` is told of each
        when all its answers are there, with its samples; of what was complete before at once.
        """
        share = share or Share()
        journals = self._journals(wanted, share)
        opened: dict[Asked, tuple[Benchmark, str]] = {}
        for (benchmark, variant), journal in zip(wanted, journals, strict=True):
            samples, name = asked_samples(benchmark, self.run.data, variant), titled(benchmark, variant)
            asked = Asked(samples, benchmark.generation.max_new_tokens, journal, name, self.positions)
            if is_open(asked, self.run.recipe.template):
                opened[asked] = benchmark, variant
            elif not share.rank:
                finished(benchmark, variant, samples)
        if not opened:
            return
        self._share_answers(opened, share)
        if not share.rank:
            self._tell_outdated([*opened])
        # One rank's answers may be there before another looks.
        left = decided(lambda: any(self._pending(asked) for asked in opened))
        model = self.model if left else None
        if share.size > 1 and left:
            # All at once: processes that share work do not wait for each other between its parts.
            self._encode("all", opened)
        if self.server and left:
            # A line of the ledger says who answered: its sums are rounded otherwise than the engine's.
            with self.ledger.step(f"asking {self.server.serves} at {self.server.url}", "server"):
                pass
        parts, at = len(together([*opened])), count(1)

        @contextmanager
        def around(part: Sequence[Asked]) -> Iterator[Progress]:
            if share.size == 1:
                # Variants that were answered just now may have answers, too.
                self._share_answers({asked: opened[asked] for asked in part}, share)
            chosen = {asked: opened[asked] for asked in part}
            with self._step(chosen, f", {next(at)} of {parts}" if parts > 1 else "", share) as progress:
                yield progress

        answer_many(
            model,
            [*opened],
            self.run.recipe.template,
            lambda images: self.features(images),
            engine=self.server or "batched",
            limits=self._limits(model),
            share=share,
            finished=lambda asked: finished(*opened[asked], asked.samples),
            around=around,
            say=self.ledger.reporter.say,
        )

    def _limits(self, model: VLM | None) -> Limits | None:
        if self.server or model is None:
            return self.server.limits if self.server else None
        from mllm_eval.generate.thrift import kept_limits

        return decided(lambda: kept_limits(self.run.answers_path("limits").with_suffix(".json"), model))

    def _journals(self, wanted: Sequence[tuple[Benchmark, str]], share: Share) -> list[Journal]:
        journals = [Journal(self.run.answers_path(one.name, variant), share.rank) for one, variant in wanted]

        def hold() -> None:
            for (benchmark, variant), journal in zip(wanted, journals, strict=True):
                if dropped := journal.hold_to(benchmark.generation.max_new_tokens):
                    name = titled(benchmark, variant)
                    self.ledger.reporter.say(f"{name}: {dropped} answers had another limit of tokens")

        share.first(hold)
        return journals

    def _pending(self, asked: Asked) -> bool:
        return bool(pending(asked.samples, self.run.recipe.template, asked.journal, asked.room))

    def _tell_outdated(self, opened: Sequence[Asked]) -> None:
        for asked in opened:
            if len(asked.journal.done()):
                ids = pending(asked.samples, self.run.recipe.template, asked.journal, asked.room)
                if count := outdated(ids, asked.journal):
                    self.ledger.reporter.say(outdated_words(asked.name, count))

    @contextmanager
    def _step(self, part: Mapping[Asked, tuple[Benchmark, str]], which: str, share: Share) -> Iterator[Progress]:
        """What is left of a part, as a step of the ledger; the images that it shows are encoded before."""
        name = " + ".join(asked.name for asked in part)
        if not any(self._pending(asked) for asked in part):
            yield lambda done, total: None
            return
        if share.size == 1:
            self._encode(name, part)
        parts = [
            Part(f"answers: {asked.name}", benchmark.name, variant, len(asked.samples))
            for asked, (benchmark, variant) in part.items()
        ]
        with self.ledger.step(f"answers: {name}", "answers", f"answers: {name}{which}", parts) as progress:
            yield progress

    def _share_answers(self, opened: Mapping[Asked, tuple[Benchmark, str]], share: Share) -> None:
        """Take the answers that are there to the same questions: where nothing is answered yet, those of a benchmark's
        other variants, and where its rows have changed, its own to the rows that moved."""

        def take() -> None:
            template = self.run.recipe.template
            for asked, (benchmark, _) in opened.items():
                if not asked.journal.done():
                    left: Sequence[Sample] = asked.samples
                    others = self._others(benchmark, asked.journal, asked.max_new_tokens)
                elif asked.journal.complete:
                    ids = set(pending(asked.samples, template, asked.journal, asked.room))
                    left, others = [sample for sample in asked.samples if sample.id in ids], [asked.journal]
                else:
                    continue
                if shared := shared_answers(left, template, others, asked.room):
                    asked.journal.append(shared)

        share.first(take)

    def _others(self, benchmark: Benchmark, own: Journal, limit: int) -> list[Journal]:
        """The other finished journals of the benchmark, the default first, under the same limit."""
        default = self.run.answers_path(benchmark.name)
        paths = [default, *sorted(default.parent.glob(f"{benchmark.name}.*.jsonl"))]
        finished = [journal for journal in map(Journal, paths) if journal.complete and journal.path != own.path]
        for journal in finished:
            journal.hold_to(limit)
        return [journal for journal in finished if journal.complete]

    def _encode(self, name: str, part: Mapping[Asked, tuple[Benchmark, str]]) -> None:
        # An image that several show is the default's: what a variant adds is what it alone shows.
        order = sorted(part.items(), key=lambda one: VariantKey.parse(one[1][1]).name != "default")
        images = shown(asked.samples for asked, _ in order)

        def look() -> list[int]:
            left = set(self.features.store.missing(image.sha256 for image in images))
            counts = []
            for asked, _ in order if left else ():
                own = left & {image.sha256 for image in shown([asked.samples])}
                counts.append(len(own))
                left -= own
            return counts

        missing = decided(look)
        if not sum(missing):
            return
        parts = [
            Part(f"features: {asked.name}", benchmark.name, variant, own)
            for (asked, (benchmark, variant)), own in zip(order, missing, strict=True)
            if own
        ]

        def broken(image: ImageRef, problem: Exception) -> None:
            # The samples that show it fail when they are asked, with this reason in the journal.
            self.ledger.reporter.say(f"broken image: {problem}")

        with self.ledger.step(f"features: {name}", "features", parts=parts, counted="images") as progress:
            fill_together(self.features, images, progress, broken)


def titled(benchmark: Benchmark, variant: str) -> str:
    """A benchmark's name, its variant in brackets."""
    return benchmark.name if variant == "default" else f"{benchmark.name} ({variant})"

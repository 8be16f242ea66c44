"""Make the missing answers of a run or an external model. The model is loaded only if an answer is missing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count

from mllm_eval.answers import Journal
from mllm_eval.catalog import Benchmark
from mllm_eval.catalog.variant import DEFAULT, VariantKey
from mllm_eval.data.samples import ImageRef, Sample
from mllm_eval.distributed import Share, decided
from mllm_eval.generate import Hooks, Task, answer_tasks, answers_by_key, group_by_images
from mllm_eval.pipeline.backends import BackendSource
from mllm_eval.pipeline.ledger import Ledger, VariantPart
from mllm_eval.pipeline.selection import asked_samples
from mllm_eval.progress import Progress
from mllm_eval.run import RunFolder


@dataclass(frozen=True)
class Inference:
    """Answers questions for a run or an external model (`row`) by its `source`. Nothing is loaded on construction."""

    row: RunFolder
    source: BackendSource
    ledger: Ledger
    share: Share

    def answer(
        self,
        wanted: Sequence[tuple[Benchmark, VariantKey]],
        finished: Callable[[Benchmark, VariantKey, Sequence[Sample]], None],
    ) -> None:
        """Make the missing answers to these variants of benchmarks.

        Variants that share images are answered together, in one group; groups follow in the order of `wanted`.
        `finished` is called on rank 0 for each variant, with its samples, when all its answers exist. For variants
        that are complete already it is called at once.
        """
        opened = self._opened(wanted, finished)
        if not opened:
            return
        self._share_answers(opened)
        if not self.share.rank:
            for task in opened:
                if outdated := task.count_outdated():
                    self.ledger.reporter.say(outdated_words(task.name, outdated))
        # Ranks must agree: one rank may finish answers before another one looks.
        needed = decided(lambda: any(any(task.todo) for task in opened))
        backend = self.source.load() if needed else None
        if self.share.size > 1 and needed:
            # Encode everything up front: ranks that share the questions do not wait for each other between groups.
            self._encode("all", opened)
        groups, at = len(group_by_images([*opened])), count(1)

        @contextmanager
        def around(group: Sequence[Task]) -> Iterator[Progress]:
            chosen = {task: opened[task] for task in group}
            if self.share.size == 1:
                # An earlier group may just have answered the same questions.
                self._share_answers(chosen)
            with self._step(chosen, f", {next(at)} of {groups}" if groups > 1 else "") as progress:
                yield progress

        hooks = Hooks(
            share=self.share,
            finished=lambda task: finished(*opened[task], task.samples),
            around=around,
            say=self.ledger.reporter.say,
        )
        answer_tasks(backend, [*opened], hooks)

    def _opened(
        self,
        wanted: Sequence[tuple[Benchmark, VariantKey]],
        finished: Callable[[Benchmark, VariantKey, Sequence[Sample]], None],
    ) -> dict[Task, tuple[Benchmark, VariantKey]]:
        """Return a task for each variant with work left; call `finished` for the others."""
        opened = {}
        for (benchmark, variant), journal in zip(wanted, self._journals(wanted), strict=True):
            samples = asked_samples(benchmark, self.row.data, variant)
            limit, name = benchmark.generation.max_new_tokens, titled(benchmark, variant)
            task = Task(samples, limit, journal, self.source.prompts, name, variant, self.source.positions)
            if task.is_open:
                opened[task] = benchmark, variant
                continue
            task.release()
            if not self.share.rank:
                finished(benchmark, variant, samples)
        return opened

    def _journals(self, wanted: Sequence[tuple[Benchmark, VariantKey]]) -> list[Journal]:
        journals = [Journal(self.row.answers_path(one.name, variant), self.share.rank) for one, variant in wanted]

        def hold() -> None:
            for (benchmark, variant), journal in zip(wanted, journals, strict=True):
                if dropped := journal.hold_to(benchmark.generation.max_new_tokens):
                    name = titled(benchmark, variant)
                    self.ledger.reporter.say(f"{name}: {dropped} answers had another limit of tokens")

        self.share.first(hold)
        return journals

    @contextmanager
    def _step(self, group: Mapping[Task, tuple[Benchmark, VariantKey]], which: str) -> Iterator[Progress]:
        """Answer the rest of a group as one step of the ledger, after encoding the images that it shows."""
        name = " + ".join(task.name for task in group)
        if not any(any(task.todo) for task in group):
            yield lambda done, total: None
            return
        if self.share.size == 1:
            self._encode(name, group)
        parts = [
            VariantPart(f"answers: {task.name}", benchmark.name, variant, len(task.requests))
            for task, (benchmark, variant) in group.items()
        ]
        with self.ledger.step(f"answers: {name}", "answers", f"answers: {name}{which}", parts) as progress:
            yield progress

    def _share_answers(self, opened: Mapping[Task, tuple[Benchmark, VariantKey]]) -> None:
        """Reuse existing answers to the same questions.

        A variant without answers takes them from the benchmark's other variants. A complete variant whose rows have
        changed takes its own answers to rows that only got another id.
        """

        def take() -> None:
            for task, (benchmark, _) in opened.items():
                if not task.journal.done():
                    task.take(answers_by_key(self._others(benchmark, task), task.room))
                elif task.journal.complete:
                    task.take(answers_by_key([task.journal], task.room))

        self.share.first(take)
        if self.share.rank:
            for task in opened:
                task.look_again()

    def _others(self, benchmark: Benchmark, task: Task) -> list[Journal]:
        """Return the benchmark's other finished journals, the default's first, less answers of another token limit."""
        default = self.row.answers_path(benchmark.name)
        paths = [default, *sorted(default.parent.glob(f"{benchmark.name}.*.jsonl"))]
        finished = [
            journal for journal in map(Journal, paths) if journal.complete and journal.path != task.journal.path
        ]
        for journal in finished:
            journal.hold_to(task.max_new_tokens)
        return finished

    def _encode(self, name: str, group: Mapping[Task, tuple[Benchmark, VariantKey]]) -> None:
        # The ledger counts each image once, for the default variant where it shows the image.
        order = sorted(group.items(), key=lambda one: one[1][1].name != DEFAULT.name)
        images: dict[str, ImageRef] = {}
        own: list[set[str]] = []
        for task, _ in order:
            shown = {image.sha256: image for request in task.requests for image in request.images}
            own.append(shown.keys() - images.keys())
            images |= {key: image for key, image in shown.items() if key in own[-1]}

        def look() -> list[int]:
            left = self.source.missing_features([*images.values()])
            return [len(left & shown) for shown in own]

        missing = decided(look)
        if not sum(missing):
            return
        parts = [
            VariantPart(f"features: {task.name}", benchmark.name, variant, amount)
            for (task, (benchmark, variant)), amount in zip(order, missing, strict=True)
            if amount
        ]

        def broken(image: ImageRef, problem: Exception) -> None:
            # Requests that show this image fail later, with this reason in the journal.
            self.ledger.reporter.say(f"broken image: {problem}")

        with self.ledger.step(f"features: {name}", "features", parts=parts, counted="images") as progress:
            self.source.encode([*images.values()], progress, broken)


def outdated_words(name: str, amount: int) -> str:
    """Return the sentence that reports `amount` answers as outdated."""
    why = "to another prompt, other tokens or another image, or beyond the model's positions"
    return f"{name}: {amount:,} of its answers are {why}; asked again"


def titled(benchmark: Benchmark, variant: VariantKey) -> str:
    """Return the benchmark's name, followed by the variant in brackets unless it is the default."""
    return benchmark.name if variant == DEFAULT else f"{benchmark.name} ({variant})"

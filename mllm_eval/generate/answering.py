"""From what is asked to journalled answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Literal

from mllm_eval.answers import Answer, Journal
from mllm_eval.data.samples import ImageRef, Sample
from mllm_eval.generate.asking import BROKEN, Asked, is_open, key_of, together, without_answer
from mllm_eval.generate.batching import Batch, Limits, Planned, plan
from mllm_eval.generate.questions import Questions
from mllm_eval.generate.sharing import Share
from mllm_eval.prompts import template_named

if TYPE_CHECKING:
    from torch import Tensor

    from mllm_eval.generate.model import Answerer

Engine = Literal["batched", "reference"]
Features = Callable[[list[ImageRef]], "list[Tensor]"]
Progress = Callable[[int, int], None]
Read = tuple[dict[str, "Tensor"], dict[str, str]]
"""Features by sha256 of the images that can be read, and for the others why not."""


def answer(
    model: Answerer,
    samples: Sequence[Sample],
    template: str,
    features: Features,
    max_new_tokens: int,
    journal: Journal,
    progress: Progress | None = None,
    engine: Engine = "batched",
    limits: Limits | None = None,
) -> list[Answer]:
    """`answer_many` for samples of one kind; returns the greedy answers in their order."""
    asked = Asked(samples, max_new_tokens, journal)
    answer_many(model, [asked], template, features, progress, engine, limits)
    done = journal.done()
    return [done[sample.id] for sample in samples]


def answer_many(
    model: Answerer | None,
    asked: Sequence[Asked],
    template: str,
    features: Features,
    progress: Progress | None = None,
    engine: Engine = "batched",
    limits: Limits | None = None,
    share: Share | None = None,
    finished: Callable[[Asked], None] | None = None,
    around: Callable[[Sequence[Asked]], AbstractContextManager[Progress | None]] | None = None,
) -> None:
    """Greedy answers to all that is asked; new ones go to the journals batch by batch.

    What shares images is answered together, each image's part of the prompts computed once; what shares none is
    answered in the order asked, as if it were asked alone. `finished` is told when a journal is finished.
    `features` gives the grids [h, w, D] of images; an image it raises UserError, OSError or ValueError for
    makes the samples that show it fail (state `error`), and no others. A batch of which all samples are in
    the journals is skipped, any other is computed whole. Failed samples are tried again when their images can be
    read. `progress` is called with the number of samples done and of all.

    Args:
        model: None where all has been answered and journals are only to be finished.
        around: gives the context in which a part is answered, those that share images, and where its progress goes.
        share: this process's part of the batches; by default it does all. The journals are of its rank, and that of
            rank 0 is finished when all have answered theirs: only there `finished` is called.
    """
    share = share or Share()
    for one in asked:
        if len({sample.id for sample in one.samples}) != len(one.samples):
            raise ValueError("two samples have the same id")

    def hold() -> None:
        for one in asked:
            one.journal.hold_to(one.max_new_tokens)

    # Rank 0 gathers what an earlier run has left before the others append; they only note the limits.
    share.first(hold)
    if share.rank:
        hold()
    opened = [one for one in asked if is_open(one, template)]
    total, counted = sum(len(one.samples) for one in opened), share.counter()
    for part in together(opened):
        with around(part) if around else nullcontext(progress) as told:
            todo = bytearray().join(without_answer(one.samples, template, one.journal) for one in part)
            if told:
                told(counted(0), total)
            for count in _answered(model, part, template, features, engine, limits or Limits(), share, todo):
                done = counted(count)
                if told:
                    told(done, total)
        share.last(partial(_finish, part, finished))
    share.end()


def _answered(
    model: Answerer | None,
    part: Sequence[Asked],
    template: str,
    features: Features,
    engine: Engine,
    limits: Limits,
    share: Share,
    todo: bytearray,
) -> Iterator[int]:
    """How many samples each batch answers, when their answers are in the journals."""
    if not any(todo):
        # Whoever has seen all answers takes nothing, but takes part in the taking.
        yield from (0 for _ in share.take([]))
        return
    if model is None:
        raise ValueError("something is to be answered, and there is no model")
    job = _Job(model, part, template, features, engine, limits, todo)
    for planned in job.answered(share.take([planned.work for planned in job.batches])):
        yield len(job.samples(planned))


def _finish(part: Sequence[Asked], finished: Callable[[Asked], None] | None) -> None:
    for one in part:
        one.journal.finish(sample.id for sample in one.samples)
        if finished:
            finished(one)


def _read(features: Features, images: Sequence[ImageRef]) -> Read:
    refs = list({image.sha256: image for image in images}.values())
    if not refs:
        return {}, {}
    try:
        return dict(zip((ref.sha256 for ref in refs), features(refs), strict=True)), {}
    except BROKEN as error:
        if len(refs) == 1:
            return {}, {refs[0].sha256: " ".join(str(error).split()) or type(error).__name__}
    good: dict[str, Tensor] = {}
    bad: dict[str, str] = {}
    for ref in refs:
        read, failed = _read(features, [ref])
        good |= read
        bad |= failed
    return good, bad


class _Job:
    """A part of what is asked, as batches for one model."""

    def __init__(
        self,
        model: Answerer,
        asked: Sequence[Asked],
        template: str,
        features: Features,
        engine: Engine,
        limits: Limits,
        todo: bytearray,
    ) -> None:
        from mllm_eval.generate.model import end_tokens

        self.model, self.asked, self.template, self.features = model, asked, template, features
        self.engine, self.limits, self.todo = engine, limits, todo
        self.ends = end_tokens(model.tokenizer, template_named(template).assistant_close)
        self.questions = questions = Questions(asked, template, model.tokenizer, model.image_tokens)
        self.twins: dict[int, list[int]] = {}
        for number, other in questions.same_as.items():
            self.twins.setdefault(other, []).append(number)
        requests = [one for one in questions.requests if one.number not in questions.same_as]
        if engine == "batched":
            self.batches = plan(requests, limits)
        else:
            self.batches = [
                Planned((one.head,), ((one.number,),), one.head_tokens + one.tail_tokens) for one in requests
            ]

    def samples(self, planned: Planned) -> list[int]:
        """The numbers of the samples that a batch answers."""
        return [sample for number in planned.requests for sample in (number, *self.twins.get(number, ()))]

    def answered(self, numbers: Iterable[int]) -> Iterator[Planned]:
        """Those batches, each when its answers are in the journals; features are read one batch ahead."""
        import torch

        # What the encoder computes depends on the number of threads, which every thread has of its own.
        threads = torch.get_num_threads()
        with ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(threads,)) as reader:
            coming = None
            for number in numbers:
                planned = self.batches[number]
                new = any(self.todo[sample] for sample in self.samples(planned))
                following = planned, reader.submit(_read, self.features, self._images(planned)) if new else None
                if coming is not None:
                    yield self._journalled(*coming)
                coming = following
            if coming is not None:
                yield self._journalled(*coming)

    def _images(self, planned: Planned) -> list[ImageRef]:
        return [image for number in planned.requests for image in self.questions.sample(number).images]

    def _journalled(self, planned: Planned, coming: Future[Read] | None) -> Planned:
        """Answer what has no answer yet; the batch is computed whole, so that its roundings are always the same."""
        if coming is None:
            return planned
        features, failed = coming.result()
        batch = self.questions.batch(planned)
        tokens = self._tokens(batch, features)
        new: dict[int, list[Answer]] = {}
        for row in (row for block in batch.blocks for row in block):
            asked_in = batch.head_tokens + row.tail_tokens
            for number in (row.request, *self.twins.get(row.request, ())):
                if self.todo[number]:
                    one, at = self.questions.place(number)
                    sample = self.asked[one].samples[at]
                    new.setdefault(one, []).append(self._answer(sample, tokens.get(row.request), asked_in, failed))
        for one, answers in new.items():
            self.asked[one].journal.append(answers)
        return planned

    def _tokens(self, batch: Batch, features: Mapping[str, Tensor]) -> dict[int, list[int]]:
        from mllm_eval.generate.engine import answer_batch
        from mllm_eval.generate.reference import answer_one

        if self.engine == "batched":
            return answer_batch(self.model, batch, features, self.ends, self.limits.pass_tokens)
        return {
            row.request: answer_one(self.model, (*batch.heads[row.head], *row.tail), features, row.longest, self.ends)
            for block in batch.blocks
            for row in block
            if all(image in features for image in batch.images(row))
        }

    def _answer(self, sample: Sample, tokens: list[int] | None, asked_in: int, failed: Mapping[str, str]) -> Answer:
        prompt, images = key_of(sample, self.template)
        if tokens is None:
            reason = next(failed[image.sha256] for image in sample.images if image.sha256 in failed)
            return Answer(sample.id, prompt, images, "", asked_in, 0, "error", reason)
        # As the paper's code reads its model's tokens.
        text = self.model.tokenizer.decode(tokens, skip_special_tokens=True).strip()
        return Answer(sample.id, prompt, images, text, asked_in, len(tokens), "ok", "")

"""From what is asked to journalled answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING

from mllm_eval.answers import Answer, Journal
from mllm_eval.data.samples import Sample
from mllm_eval.distributed.workqueue import Share
from mllm_eval.generate.asking import Asked, is_open, together, without_answer
from mllm_eval.generate.batching import Limits
from mllm_eval.generate.job import Engine, Features, Job, Means
from mllm_eval.generate.positions import position_limit
from mllm_eval.generate.thrift import Thrift
from mllm_eval.progress import Progress

if TYPE_CHECKING:
    from mllm_eval.generate.model import Answerer
    from mllm_eval.generate.server import Server


def answer(
    model: Answerer | None,
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
    # Without a model all is answered already; what its positions were then is not known here.
    held = None if model is None else position_limit(getattr(model.llm, "config", None))
    asked = Asked(samples, max_new_tokens, journal, positions=held)
    answer_many(model, [asked], template, features, progress, engine, limits)
    done = journal.done()
    return [done[sample.id] for sample in samples]


def answer_many(
    model: Answerer | None,
    asked: Sequence[Asked],
    template: str,
    features: Features,
    progress: Progress | None = None,
    engine: Engine | Server = "batched",
    limits: Limits | None = None,
    share: Share | None = None,
    finished: Callable[[Asked], None] | None = None,
    around: Callable[[Sequence[Asked]], AbstractContextManager[Progress | None]] | None = None,
    say: Callable[[str], None] | None = None,
) -> None:
    """Greedy answers to all that is asked; new ones go to the journals batch by batch.

    What shares images is answered together, each image's part of the prompts computed once; what shares none is
    answered in the order asked, as if it were asked alone. `finished` is told when a journal is finished.
    `features` gives the grids [h, w, D] of images; an image it raises UserError, OSError or ValueError for
    makes the samples that show it fail (state `error`), and no others. A batch of which all samples are in
    the journals is skipped, any other is computed whole. Failed samples are tried again when their images can be
    read. `progress` is called with the number of samples done and of all. Where memory runs out, batches are
    halved from there on.

    Args:
        engine: `reference` answers one by one; a server answers in the engine's place.
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
    limits = limits or Limits()
    means = None if model is None else Means(model, template, features, engine, limits, Thrift(limits, say))
    total, counted = sum(len(one.samples) for one in opened), share.counter()
    for part in together(opened):
        with around(part) if around else nullcontext(progress) as told:
            todo = bytearray().join(without_answer(one.samples, template, one.journal, one.room) for one in part)
            if told:
                told(counted(0), total)
            for count in _answered(means, part, todo, share):
                done = counted(count)
                if told:
                    told(done, total)
        share.last(partial(_finish, part, finished))
    share.end()


def _answered(means: Means | None, part: Sequence[Asked], todo: bytearray, share: Share) -> Iterator[int]:
    """How many samples each batch answers, when their answers are in the journals."""
    if not any(todo):
        # Whoever has seen all answers takes nothing, but takes part in the taking.
        yield from (0 for _ in share.take([]))
        return
    if means is None:
        raise ValueError("something is to be answered, and there is no model")
    job = Job(means, part, todo)
    for planned in job.answered(share.take([planned.work for planned in job.batches])):
        yield len(job.samples(planned))


def _finish(part: Sequence[Asked], finished: Callable[[Asked], None] | None) -> None:
    for one in part:
        one.journal.finish(sample.id for sample in one.samples)
        if finished:
            finished(one)

"""Answer tasks by any backend and write the answers to their journals."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial

from mllm_eval.answers import Answer
from mllm_eval.distributed.workqueue import Share
from mllm_eval.generate.backend import Backend, Batch
from mllm_eval.generate.backoff import Backoff
from mllm_eval.generate.request import Request
from mllm_eval.generate.task import Task, group_by_images, same_requests
from mllm_eval.progress import Progress


@dataclass(frozen=True)
class Hooks:
    """How ranks share the work, and the callbacks that report it.

    share: this process's part of the batches; by default all. Each rank appends to a journal of its own. Rank 0
        finishes the journals when all ranks have answered their parts.
    progress: called with the number of answered requests and their total.
    finished: called on rank 0 with each task whose journal is finished.
    around: returns the context in which a group of tasks is answered; it yields the group's progress callback, which
        replaces `progress`.
    say: receives a line when memory has run out.
    """

    share: Share | None = None
    progress: Progress | None = None
    finished: Callable[[Task], None] | None = None
    around: Callable[[Sequence[Task]], AbstractContextManager[Progress | None]] | None = None
    say: Callable[[str], None] | None = None


def answer_tasks(backend: Backend | None, tasks: Sequence[Task], hooks: Hooks | None = None) -> None:
    """Answer all requests of the tasks that need an answer, and append the answers to the journals batch by batch.

    Tasks that share images form a group and are answered together; groups follow in the order given. Within a group,
    equal requests are answered once. A batch is skipped if all its requests have answers. Otherwise it is computed
    whole, so that its rounding never depends on existing answers. When memory runs out, the following batches are
    halved. A failed request is journalled as failed.

    Args:
        backend: None where everything is answered and the journals only have to be finished.

    Raises:
        ValueError: a request needs an answer and `backend` is None.
        UserError: memory ran out on a single question, or a server no longer answers.
    """
    hooks = hooks or Hooks()
    share = hooks.share or Share()

    def hold() -> None:
        for task in tasks:
            task.journal.hold_to(task.max_new_tokens)

    # Rank 0 merges the parts of an earlier run before other ranks append; these only note the token limits.
    share.first(hold)
    if share.rank:
        hold()
    opened = [task for task in tasks if task.is_open]
    backoff = None if backend is None else Backoff(backend, hooks.say)
    total, counted = sum(len(task.requests) for task in opened), share.counter()
    for group in group_by_images(opened):
        with hooks.around(group) if hooks.around else nullcontext(hooks.progress) as told:
            if told:
                told(counted(0), total)
            for count in _answer_group(backoff, group, share):
                done = counted(count)
                if told:
                    told(done, total)
        share.last(partial(_finish, group, hooks.finished))
        if share.rank:
            for task in group:
                task.release()
    share.end()


def _answer_group(backoff: Backoff | None, group: Sequence[Task], share: Share) -> Iterator[int]:
    """Yield for each batch how many requests it answers, once their answers are in the journals."""
    if not any(any(task.todo) for task in group):
        # A rank without open requests must still take part in sharing out the batches.
        yield from (0 for _ in share.take([]))
        return
    if backoff is None:
        raise ValueError("something is to be answered, and there is no model")
    same = same_requests(group)
    repeated = {(task, place) for others in same.values() for task, place in others}
    asked: dict[Request, list[tuple[Task, int]]] = {
        request: [(task, place), *same.get(request, ())]
        for task in group
        for place, request in enumerate(task.requests)
        if (task, place) not in repeated
    }
    backend = backoff.backend
    # All ranks must plan the same batches, so limits halved on this rank do not count here.
    batches = backend.plan(list(asked), backoff.planned_for)
    coming: tuple[Batch, bool] | None = None

    def answered(batch: Batch, needed: bool) -> int:
        if needed:
            _journal(zip(batch.requests, backoff.generate(batch.requests), strict=True), asked)
        return sum(len(asked[request]) for request in batch.requests)

    for number in share.take([batch.work for batch in batches]):
        batch = batches[number]
        needed = any(task.todo[place] for request in batch.requests for task, place in asked[request])
        if needed:
            backend.prefetch(batch.requests)
        if coming is not None:
            yield answered(*coming)
        coming = batch, needed
    if coming is not None:
        yield answered(*coming)


def _journal(answers: Iterable[tuple[Request, Answer]], asked: Mapping[Request, Sequence[tuple[Task, int]]]) -> None:
    """Append the needed answers to the journals, for each request and for the requests equal to it."""
    new: dict[Task, list[Answer]] = {}
    for request, answer in answers:
        for task, place in asked[request]:
            if task.todo[place]:
                new.setdefault(task, []).append(replace(answer, id=task.requests[place].id))
    for task, own in new.items():
        task.journal.append(own)


def _finish(group: Sequence[Task], finished: Callable[[Task], None] | None) -> None:
    for task in group:
        task.finish()
        if finished:
            finished(task)

"""A task: one variant of a benchmark as a list of requests, with the journal of their answers. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

from mllm_eval.answers import Answer, Journal
from mllm_eval.catalog.variant import DEFAULT, VariantKey
from mllm_eval.data.samples import Sample
from mllm_eval.generate.request import AnswerKey, PromptFormat, Request, fits, is_settled, write_request


class Task:
    """Samples with unique ids, the format of their prompts, and the journal that receives their answers.

    The samples are read once, when `requests` is first used. Requests stay in memory until the journal is finished.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        max_new_tokens: int,
        journal: Journal,
        prompts: PromptFormat,
        name: str = "",
        variant: VariantKey = DEFAULT,
        positions: int | None = None,
    ) -> None:
        """`name` is for display. `positions`: the LLM's maximum sequence length in tokens, None if unknown."""
        self.samples, self.max_new_tokens, self.journal = samples, max_new_tokens, journal
        self.prompts, self.name, self.variant = prompts, name, variant
        self.room = None if positions is None else positions - max_new_tokens
        """The maximum number of tokens of a prompt; None if unknown."""

    @cached_property
    def requests(self) -> list[Request]:
        """One request per sample, in their order. Raises ValueError where two samples have the same id."""
        requests = [write_request(one, self.prompts, self.max_new_tokens, self.variant) for one in self.samples]
        if len({request.id for request in requests}) != len(requests):
            raise ValueError("two samples have the same id")
        return requests

    @cached_property
    def todo(self) -> bytearray:
        """1 for each request that needs an answer, else 0."""
        answers = self.journal.done()
        return bytearray(not is_settled(answers.get(one.id), one, self.room) for one in self.requests)

    @property
    def pending(self) -> list[Request]:
        """The requests that need an answer."""
        return [request for request, needed in zip(self.requests, self.todo, strict=True) if needed]

    @property
    def is_open(self) -> bool:
        """Whether answers are missing, or the journal is unfinished or has another number of answers."""
        if not self.journal.complete or len(self.journal.done()) != len(self.samples):
            return True
        return any(self.todo)

    def count_outdated(self) -> int:
        """Return how many requests need a new answer because the answer they have is outdated."""
        answers = self.journal.done()
        old = (answers.get(one.id) for one in self.pending) if len(answers) else ()
        return sum(one is not None and one.state == "ok" for one in old)

    def take(self, known: Mapping[AnswerKey, Answer]) -> None:
        """Journal known answers for the open requests with the same prompt and images, under the requests' own ids."""
        pairs = ((place, one, known.get(one.key)) for place, one in enumerate(self.requests) if self.todo[place])
        taken = [(place, replace(answer, id=one.id)) for place, one, answer in pairs if answer is not None]
        if taken:
            self.journal.append([answer for _, answer in taken])
        for place, _ in taken:
            self.todo[place] = 0

    def finish(self) -> None:
        """Finish the journal and free the requests."""
        self.journal.finish(request.id for request in self.requests)
        self.release()

    def look_again(self) -> None:
        """Make `todo` read the journal again, since another process may have added answers."""
        self.__dict__.pop("todo", None)

    def release(self) -> None:
        """Free the requests; they are built again when used."""
        self.__dict__.pop("requests", None)
        self.__dict__.pop("todo", None)


def answers_by_key(journals: Iterable[Journal], room: int | None = None) -> dict[AnswerKey, Answer]:
    """Return the journals' answers by their keys; of several answers with the same key, the first.

    Failed answers are left out, and so are answers to prompts of more than `room` tokens.
    """
    known: dict[AnswerKey, Answer] = {}
    for journal in journals:
        for one in journal.done().values():
            if one.state == "ok" and fits(one, room):
                known.setdefault((one.prompt, one.images), one)
    return known


def same_requests(tasks: Sequence[Task]) -> dict[Request, list[tuple[Task, int]]]:
    """Return request -> the equal requests of later tasks, as (task, index).

    Requests are equal if prompt, images and token limit are: a greedy answer depends on nothing else.
    """
    first: dict[tuple[AnswerKey, int], tuple[Task, Request]] = {}
    same: dict[Request, list[tuple[Task, int]]] = {}
    for task in tasks if len(tasks) > 1 else ():
        for place, request in enumerate(task.requests):
            other, original = first.setdefault((request.key, task.max_new_tokens), (task, request))
            if other is not task:
                same.setdefault(original, []).append((task, place))
    return same


def group_by_images(tasks: Sequence[Task]) -> list[list[Task]]:
    """Group tasks that share images, directly or through other tasks (connected components).

    The groups are ordered by their first task.
    """
    parent = list(range(len(tasks)))

    def root(number: int) -> int:
        while parent[number] != number:
            number = parent[number]
        return number

    first: dict[str, int] = {}
    for number, task in enumerate(tasks):
        for image in {image.sha256 for request in task.requests for image in request.images}:
            low, high = sorted((root(first.setdefault(image, number)), root(number)))
            parent[high] = low
    groups: dict[int, list[Task]] = {}
    for number, task in enumerate(tasks):
        groups.setdefault(root(number), []).append(task)
    return list(groups.values())

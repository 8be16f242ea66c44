"""What tests of generation share: tasks, and each backend by a word."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from mllm_eval.answers import Answer, Journal
from mllm_eval.data.samples import Sample
from mllm_eval.distributed import Share
from mllm_eval.generate import Hooks, Limits, Task, TemplateFormat, answer_tasks, answers_by_key
from mllm_eval.generate.positions import position_limit
from mllm_eval.generate.request import AnswerKey, write_request

Progress = Callable[[int, int], None]


def a_task(
    samples: Sequence[Sample],
    max_new_tokens: int,
    journal: Journal,
    name: str = "",
    positions: int | None = None,
    template: str = "llama_3_meta",
) -> Task:
    return Task(samples, max_new_tokens, journal, TemplateFormat(template), name, positions=positions)


def a_backend(model: Any, template: str, features: Any, engine: Any = "batched", limits: Limits | None = None) -> Any:
    """`engine`: `batched`, `reference`, or a server."""
    from mllm_eval.generate.engine import Engine
    from mllm_eval.generate.reference import Reference
    from mllm_eval.generate.server import ServerBackend

    if not isinstance(engine, str):
        return ServerBackend(model, template, features, engine)
    kinds = {"batched": Engine, "reference": Reference}
    return kinds[engine](model, template, features, limits)


def answer_many(
    model: Any,
    tasks: Sequence[Task],
    template: str,
    features: Any,
    progress: Progress | None = None,
    engine: Any = "batched",
    limits: Limits | None = None,
    share: Share | None = None,
    finished: Callable[[Task], None] | None = None,
    around: Callable[[Sequence[Task]], AbstractContextManager[Progress | None]] | None = None,
    say: Callable[[str], None] | None = None,
) -> None:
    backend = None if model is None else a_backend(model, template, features, engine, limits)
    answer_tasks(backend, tasks, Hooks(share, progress, finished, around, say))


def answer(
    model: Any,
    samples: Sequence[Sample],
    template: str,
    features: Any,
    max_new_tokens: int,
    journal: Journal,
    progress: Progress | None = None,
    engine: Any = "batched",
    limits: Limits | None = None,
) -> list[Answer]:
    """Of samples of one kind; the answers in their order."""
    held = None if model is None else position_limit(getattr(model.llm, "config", None))
    task = a_task(samples, max_new_tokens, journal, positions=held, template=template)
    answer_many(model, [task], template, features, progress, engine, limits)
    done = journal.done()
    return [done[sample.id] for sample in samples]


def pending(samples: Sequence[Sample], template: str, journal: Journal, room: int | None = None) -> list[str]:
    """The ids of the samples that need an answer; `room`: how many tokens a prompt may have."""
    task = a_task(samples, 0, journal, positions=room, template=template)
    return [request.id for request in task.pending]


def key_of(sample: Sample, template: str) -> AnswerKey:
    return write_request(sample, TemplateFormat(template), 1).key


def shared_answers(
    samples: Sequence[Sample], template: str, journals: Sequence[Journal], room: int | None = None
) -> list[Answer]:
    """The answers of journals to these very prompts about these very images, under the samples' own ids."""
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder) / "taken.jsonl")
        a_task(samples, 0, journal, template=template).take(answers_by_key(journals, room))
        done = journal.done()
        return [done[sample.id] for sample in samples if sample.id in done]

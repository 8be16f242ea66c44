"""A task takes only the answers that it lacks, and frees its requests at its end."""

from __future__ import annotations

from pathlib import Path

import pytest
from tasks import a_task
from tiny_generation import a_sample

from mllm_eval.answers import Answer, Journal
from mllm_eval.data.samples import Sample
from mllm_eval.generate import Hooks, TemplateFormat, answer_tasks
from mllm_eval.generate.request import write_request


def asked(name: str) -> Sample:
    return a_sample(name, [f"image {name}"], f"What is {name}?")


def test_known_answers_fill_gaps_and_replace_nothing(tmp_path: Path) -> None:
    task = a_task([asked("0"), asked("1")], 6, Journal(tmp_path / "b.jsonl"))
    first, second = task.requests
    task.journal.append([first.answer("own", 9, 2)])
    known = {one.key: Answer("else", *one.key, "another's", 9, 2) for one in (first, second)}
    task.take(known)
    done = task.journal.done()
    assert [(done[one.id].id, done[one.id].text) for one in (first, second)] == [
        (first.id, "own"),
        (second.id, "another's"),
    ]
    assert not any(task.todo)


def test_a_task_frees_its_requests_when_it_ends(tmp_path: Path) -> None:
    task = a_task([asked("0")], 6, Journal(tmp_path / "b.jsonl"))
    requests, todo = task.requests, task.todo
    task.journal.append([requests[0].answer("own", 9, 2)])
    task.finish()
    assert task.requests is not requests
    assert [one.key for one in task.requests] == [one.key for one in requests]
    assert list(todo) == [1] and list(task.todo) == [0]


def test_questions_without_a_model_are_refused_and_answered_ones_are_finished(tmp_path: Path) -> None:
    task = a_task([asked("0")], 6, Journal(tmp_path / "b.jsonl"))
    with pytest.raises(ValueError, match="there is no model"):
        answer_tasks(None, [task])
    task.journal.append([task.requests[0].answer("own", 9, 2)])
    task.release()
    told: list[tuple[int, int]] = []
    answer_tasks(None, [task], Hooks(progress=lambda done, total: told.append((done, total))))
    assert task.journal.complete
    # The questions are told as done or to be done before the first is asked.
    assert told == [(0, 1)]


def test_requests_share_what_the_template_writes_and_failures_count_no_tokens() -> None:
    written = TemplateFormat("llama_3_meta")
    first, second = (write_request(asked(name), written, 6) for name in "ab")
    own = [(one, other) for one, other in zip(first.prompt, second.prompt, strict=True) if one.own]
    assert own and all(one is other for one, other in own)
    failed = first.failure("broken")
    assert (failed.state, failed.reason, failed.tokens_in, failed.tokens_out) == ("error", "broken", 0, 0)

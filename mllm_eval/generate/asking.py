"""What is asked: samples of a benchmark in one variant, under a limit, with the journal of their answers. No torch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from mllm_eval.answers import Answer, Journal
from mllm_eval.data.samples import ImageRef, Sample
from mllm_eval.errors import UserError
from mllm_eval.prompts import may_hold_marks, render

# What a broken image raises on its way to features. Anything else is a fault of the code and stops the run.
BROKEN = (UserError, OSError, ValueError)
# Why a sample failed whose prompt and longest answer have no room in the LLM: trying again gives nothing else.
TOO_LONG = "does not fit the LLM"
# Behind a prompt whose own words hold control marks, where it is made a digest.
AS_TEXT = "\0marks in the question are text"


@dataclass(frozen=True, eq=False)
class Asked:
    """Samples with unique ids, how many tokens an answer to them may have, and the journal it goes to."""

    samples: Sequence[Sample]
    max_new_tokens: int
    journal: Journal
    name: str = ""
    """For people."""
    positions: int | None = None
    """How many tokens the LLM can hold in a row, where it is known: an answer beyond them counts for none."""

    @property
    def room(self) -> int | None:
        """How many tokens a prompt may have."""
        return None if self.positions is None else self.positions - self.max_new_tokens


def pending(samples: Sequence[Sample], template: str, journal: Journal, room: int | None = None) -> list[str]:
    """The ids of the samples that have no answer to this very prompt about these very images yet.

    room: how many tokens a prompt may have; an answer to a longer one was made of noise. A failed sample is pending
    when its images can be decoded by now. Needs no torch and no model: with nothing pending, none has to be loaded.
    """
    done = journal.done()
    return [sample.id for sample in samples if not _settled(done.get(sample.id), sample, template, room)]


def outdated(ids: Iterable[str], journal: Journal) -> int:
    """How many of these samples, which are pending, have an answer all the same: one that counts no more."""
    done = journal.done()
    found = (done.get(name) for name in ids) if len(done) else ()
    return sum(one is not None and one.state == "ok" for one in found)


def outdated_words(name: str, count: int) -> str:
    """What is said of answers that count no more."""
    why = "to another prompt, other tokens or another image, or beyond the model's positions"
    return f"{name}: {count:,} of its answers are {why}; asked again"


def shared_answers(
    samples: Sequence[Sample], template: str, journals: Sequence[Journal], room: int | None = None
) -> list[Answer]:
    """The answers that journals have to these very prompts about these very images, under the samples' own ids.

    Greedy answers depend on nothing else. Failed ones are left out, and those to prompts without `room`.
    """
    known: dict[tuple[str, tuple[str, ...]], Answer] = {}
    for journal in journals:
        for one in journal.done().values():
            if one.state == "ok" and fits(one, room):
                known.setdefault((one.prompt, one.images), one)
    if not known:
        return []
    found = ((sample, known.get(key_of(sample, template))) for sample in samples)
    return [replace(one, id=sample.id) for sample, one in found if one is not None]


def is_open(asked: Asked, template: str) -> bool:
    """Whether something is to be done for it: an answer, or the journal is not finished, or has answers to others."""
    if not asked.journal.complete or len(asked.journal.done()) != len(asked.samples):
        return True
    return bool(pending(asked.samples, template, asked.journal, asked.room))


def together(asked: Sequence[Asked]) -> list[list[Asked]]:
    """Those that share images, over any number of others, are one part; the parts stand in the order asked."""
    parent = list(range(len(asked)))

    def root(number: int) -> int:
        while parent[number] != number:
            number = parent[number]
        return number

    first: dict[str, int] = {}
    for number, one in enumerate(asked):
        for image in {image.sha256 for sample in one.samples for image in sample.images}:
            low, high = sorted((root(first.setdefault(image, number)), root(number)))
            parent[high] = low
    parts: dict[int, list[Asked]] = {}
    for number, one in enumerate(asked):
        parts.setdefault(root(number), []).append(one)
    return list(parts.values())


def prompt_of(sample: Sample, template: str) -> str:
    """The whole prompt up to the assistant's turn."""
    return render(template, sample.prompt, len(sample.images))


def key_of(sample: Sample, template: str) -> tuple[str, tuple[str, ...]]:
    """What a greedy answer depends on, as the journal has it: digests of the prompt and of the images.

    Where a question holds control marks, the digest also says that these were read as text: answers of a version that
    took them for control tokens are answers to another prompt.
    """
    prompt = prompt_of(sample, template) + (AS_TEXT if may_hold_marks(sample.prompt) else "")
    digest = hashlib.sha256(prompt.encode()).hexdigest()[:16]
    return digest, tuple(image.sha256[:16] for image in sample.images)


def without_answer(samples: Iterable[Sample], template: str, journal: Journal, room: int | None = None) -> bytearray:
    """1 for each sample that is pending, else 0."""
    done = journal.done()
    return bytearray(not _settled(done.get(sample.id), sample, template, room) for sample in samples)


def fits(answer: Answer, room: int | None) -> bool:
    """Whether there was room for the prompt of an answer."""
    return room is None or answer.tokens_in <= room


def _settled(answer: Answer | None, sample: Sample, template: str, room: int | None) -> bool:
    if answer is None or (answer.prompt, answer.images) != key_of(sample, template):
        return False
    if answer.state == "ok":
        return fits(answer, room)
    if answer.reason.startswith(TOO_LONG):
        return True
    return not all(map(_decodes, sample.images))


def _decodes(image: ImageRef) -> bool:
    try:
        image.load()
    except BROKEN:
        return False
    return True

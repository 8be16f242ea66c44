"""From samples to journalled answers."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from mllm_eval.answers import Answer, Journal
from mllm_eval.data.samples import ImageRef, Sample
from mllm_eval.errors import UserError
from mllm_eval.generate.batching import Batch, Limits, Piece, Request, Row, plan
from mllm_eval.prompts import IMAGE, render, template_named

if TYPE_CHECKING:
    from torch import Tensor

    from mllm_eval.generate.model import Answerer

Engine = Literal["batched", "reference"]
Features = Callable[[list[ImageRef]], "list[Tensor]"]
Progress = Callable[[int, int], None]

# What a broken image raises on its way to features. Anything else is a fault of the code and stops the run.
BROKEN = (UserError, OSError, ValueError)


def pending(samples: Sequence[Sample], template: str, journal: Journal) -> list[str]:
    """The ids of the samples that have no answer to this very prompt about these very images yet.

    A failed sample is pending when its images can be decoded by now. Needs no torch and no model: with
    nothing pending, none has to be loaded.
    """
    done = journal.done()
    return [sample.id for sample in samples if not _settled(done.get(sample.id), sample, template)]


def shared_answers(samples: Sequence[Sample], template: str, journals: Sequence[Journal]) -> list[Answer]:
    """The answers that journals have to these very prompts about these very images, under the samples' own ids.

    Greedy answers depend on nothing else. Failed ones are left out.
    """
    known: dict[tuple[str, tuple[str, ...]], Answer] = {}
    for journal in journals:
        for one in journal.done().values():
            if one.state == "ok":
                known.setdefault((one.prompt, one.images), one)
    found = [(sample, known.get(_key(sample, template))) for sample in samples]
    return [replace(one, id=sample.id) for sample, one in found if one is not None]


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
    """The greedy answers to `samples`, in their order; new ones go to the journal batch by batch.

    `features` gives the grids [h, w, D] of images; an image it raises UserError, OSError or ValueError for
    makes the samples that show it fail (state `error`), and no others. A batch of which all samples are in
    the journal is skipped, any other is answered whole; the journal is finished in the end. Failed samples
    are tried again when their images can be read. `progress` is called with the number of samples done and
    of all.
    """
    if len({sample.id for sample in samples}) != len(samples):
        raise ValueError("two samples have the same id")
    journal.hold_to(max_new_tokens)
    done = journal.done()
    todo = {number for number, s in enumerate(samples) if not _settled(done.get(s.id), s, template)}
    if not todo and journal.complete:
        return [done[sample.id] for sample in samples]
    job = _Job(model, samples, template, features, max_new_tokens, engine, limits or Limits())
    finished = 0
    for batch in job.batches():
        if not todo.isdisjoint(batch.requests):
            journal.append(job.answer(batch))
        finished += len(batch.requests)
        if progress:
            progress(finished, len(samples))
    journal.finish(sample.id for sample in samples)
    done = journal.done()
    return [done[sample.id] for sample in samples]


def _digest(data: str) -> str:
    return hashlib.sha256(data.encode()).hexdigest()[:16]


def _prompt(sample: Sample, template: str) -> str:
    return render(template, sample.prompt, len(sample.images))


def _key(sample: Sample, template: str) -> tuple[str, tuple[str, ...]]:
    return _digest(_prompt(sample, template)), tuple(image.sha256[:16] for image in sample.images)


def _settled(answer: Answer | None, sample: Sample, template: str) -> bool:
    if answer is None or (answer.prompt, answer.images) != _key(sample, template):
        return False
    return answer.state == "ok" or not all(map(_decodes, sample.images))


def _decodes(image: ImageRef) -> bool:
    try:
        image.load()
    except BROKEN:
        return False
    return True


def _read(features: Features, images: Sequence[ImageRef]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Features by sha256 of the images that can be read, and for the others why not."""
    refs = list({image.sha256: image for image in images}.values())
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
    """Samples as requests to one model."""

    def __init__(
        self,
        model: Answerer,
        samples: Sequence[Sample],
        template: str,
        features: Features,
        max_new_tokens: int,
        engine: Engine,
        limits: Limits,
    ) -> None:
        from mllm_eval.generate.model import end_tokens

        self.model, self.samples, self.template, self.features = model, samples, template, features
        self.max_new_tokens, self.engine, self.limits = max_new_tokens, engine, limits
        self.ends = end_tokens(model.tokenizer, template_named(template).assistant_close)
        words: dict[str, tuple[int, ...]] = {}
        self.requests = [self._request(sample, words) for sample in samples]

    def _request(self, sample: Sample, words: dict[str, tuple[int, ...]]) -> Request:
        """`words` keeps the texts before an image, which are the same in all prompts."""
        texts = _prompt(sample, self.template).split(IMAGE, len(sample.images))
        pieces: list[Piece] = []
        for text, image in zip(texts, (*sample.images, None), strict=True):
            ids = words.get(text) or self._words(text)
            if image is not None:
                words[text] = ids
            pieces += [ids] if ids else []
            pieces += [image.sha256] if image is not None else []
        return Request(tuple(pieces))

    def _words(self, text: str) -> tuple[int, ...]:
        # A mark in a question's own words is no image: parted, it is not read as the special token.
        parts = re.split(f"(?<={IMAGE[:-1]})(?={IMAGE[-1]})", text)
        found = self.model.tokenizer(parts, add_special_tokens=False)["input_ids"]
        return tuple(token for ids in found for token in ids)

    def batches(self) -> list[Batch]:
        if self.engine == "batched":
            return plan(self.requests, self.model.image_tokens, self.max_new_tokens, self.limits)
        return [Batch(((),), 0, ((Row(n, 0, r.pieces, 0, self.max_new_tokens),),)) for n, r in enumerate(self.requests)]

    def answer(self, batch: Batch) -> list[Answer]:
        images = [image for number in batch.requests for image in self.samples[number].images]
        features, failed = _read(self.features, images) if images else ({}, {})
        tokens = self._tokens(batch, features)
        return [self._answer(number, tokens.get(number), failed) for number in batch.requests]

    def _tokens(self, batch: Batch, features: Mapping[str, Tensor]) -> dict[int, list[int]]:
        from mllm_eval.generate.engine import answer_batch
        from mllm_eval.generate.reference import answer_one

        if self.engine == "batched":
            return answer_batch(self.model, batch, features, self.ends, self.limits.pass_tokens)
        return {
            number: answer_one(self.model, self.requests[number], features, self.max_new_tokens, self.ends)
            for number in batch.requests
            if all(image in features for image in self.requests[number].images)
        }

    def _answer(self, number: int, tokens: list[int] | None, failed: Mapping[str, str]) -> Answer:
        sample, request = self.samples[number], self.requests[number]
        prompt, images = _key(sample, self.template)
        length = sum(self.model.image_tokens if isinstance(p, str) else len(p) for p in request.pieces)
        if tokens is None:
            reason = next(failed[image] for image in request.images if image in failed)
            return Answer(sample.id, prompt, images, "", length, 0, "error", reason)
        # As the paper's code reads its model's tokens.
        text = self.model.tokenizer.decode(tokens, skip_special_tokens=True).strip()
        return Answer(sample.id, prompt, images, text, length, len(tokens), "ok", "")

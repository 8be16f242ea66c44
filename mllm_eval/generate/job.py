"""What shares images, as batches for one model: read, answered and journalled one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from mllm_eval.answers import Answer
from mllm_eval.data.samples import ImageRef, Sample
from mllm_eval.generate.asking import BROKEN, TOO_LONG, Asked, key_of
from mllm_eval.generate.batching import Limits, Planned, Request, plan
from mllm_eval.generate.positions import position_limit
from mllm_eval.generate.questions import Questions
from mllm_eval.generate.thrift import Thrift
from mllm_eval.prompts import template_named

if TYPE_CHECKING:
    from torch import Tensor

    from mllm_eval.generate.model import Answerer
    from mllm_eval.generate.server import Server

Engine = Literal["batched", "reference"]
Features = Callable[[list[ImageRef]], "list[Tensor]"]
Read = tuple[dict[str, "Tensor"], dict[str, str]]
"""Features by sha256 of the images that can be read, and for the others why not."""


@dataclass(frozen=True)
class Means:
    """With what samples are answered: see `answer_many`."""

    model: Answerer
    template: str
    features: Features
    engine: Engine | Server
    limits: Limits
    thrift: Thrift


class Job:
    """Batches that hold every sample of a part once."""

    def __init__(self, means: Means, asked: Sequence[Asked], todo: bytearray) -> None:
        """`todo` says of each sample, the Asked behind one another, whether its answer is wanted."""
        from mllm_eval.generate.model import end_tokens, grid_of

        self.means, self.asked, self.todo = means, asked, todo
        self.tokenizer = means.model.tokenizer
        self.ends = end_tokens(self.tokenizer, template_named(means.template).assistant_close)
        model = means.model
        self.questions = questions = Questions(
            asked, means.template, self.tokenizer, model.image_tokens, grid_of(model)
        )
        self.twins: dict[int, list[int]] = {}
        for number, other in questions.same_as.items():
            self.twins.setdefault(other, []).append(number)
        requests = [one for one in questions.requests if one.number not in questions.same_as]
        self.positions = positions(means)
        fitting = [one for one in requests if self.fits(one)]
        self.batches = [*map(_alone, fitting)] if means.engine == "reference" else plan(fitting, means.limits)
        self.batches += [_alone(one) for one in requests if not self.fits(one)]

    def fits(self, request: Request) -> bool:
        """Whether the LLM has positions for a prompt and the longest answer allowed."""
        length = request.head_tokens + request.tail_tokens + request.longest
        return self.positions is None or length <= self.positions

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
                images = self.images(planned) if new else []
                following = planned, reader.submit(read, self.means.features, images) if new else None
                if coming is not None:
                    yield self._journalled(*coming)
                coming = following
            if coming is not None:
                yield self._journalled(*coming)

    def images(self, planned: Planned) -> list[ImageRef]:
        """What the batch's questions show, an image as often as it is shown."""
        return [image for number in planned.requests for image in self.questions.sample(number).images]

    def _journalled(self, planned: Planned, coming: Future[Read] | None) -> Planned:
        """Answer what has no answer yet; the batch is computed whole, so that its roundings are always the same."""
        if coming is None:
            return planned
        features, failed = coming.result()
        found = self.means.thrift.answer(
            planned, self.questions.requests, lambda part, limits: self.tokens(part, limits, features)
        )
        new: dict[int, list[Answer]] = {}
        for number in planned.requests:
            request = self.questions.requests[number]
            for sample in (number, *self.twins.get(number, ())):
                if self.todo[sample]:
                    one, at = self.questions.place(sample)
                    answer = self._answer(self.asked[one].samples[at], request, found.get(number), failed)
                    new.setdefault(one, []).append(answer)
        for one, answers in new.items():
            self.asked[one].journal.append(answers)
        return planned

    def tokens(self, planned: Planned, limits: Limits, features: Mapping[str, Tensor]) -> dict[int, list[int]]:
        """The tokens of a batch's answers by number, of those whose images `features` has by sha256."""
        from mllm_eval.generate.engine import answer_batch
        from mllm_eval.generate.reference import answer_one

        if not all(self.fits(self.questions.requests[number]) for number in planned.requests):
            # Such a question is a batch of its own.
            return {}
        model, engine, batch = self.means.model, self.means.engine, self.questions.batch(planned)
        rows = [row for block in batch.blocks for row in block]
        shown = {image for row in rows for image in batch.images(row)}
        own = {image: grid for image, grid in features.items() if image in shown}
        if engine == "batched":
            return answer_batch(model, batch, own, self.ends, limits.pass_tokens)
        if not isinstance(engine, str):
            return engine(model, batch, own, self.ends)
        return {
            row.request: answer_one(model, (*batch.heads[row.head], *row.tail), own, row.longest, self.ends, batch.kept)
            for row in rows
            if own.keys() >= set(batch.images(row))
        }

    def _answer(self, sample: Sample, request: Request, tokens: list[int] | None, failed: Mapping[str, str]) -> Answer:
        prompt, images = key_of(sample, self.means.template)
        length = request.head_tokens + request.tail_tokens
        if not self.fits(request):
            reason = f"{TOO_LONG}: {length} tokens and up to {request.longest} of an answer, {self.positions} positions"
            return Answer(sample.id, prompt, images, "", length, 0, "error", reason)
        if tokens is None:
            reason = next(failed[image.sha256] for image in sample.images if image.sha256 in failed)
            return Answer(sample.id, prompt, images, "", length, 0, "error", reason)
        # As the paper's code reads its model's tokens.
        text = self.tokenizer.decode(tokens, skip_special_tokens=True).strip()
        return Answer(sample.id, prompt, images, text, length, len(tokens), "ok", "")


def positions(means: Means) -> int | None:
    """How many tokens the LLM, and the server in its place, can hold in a row; None where neither says."""
    config = getattr(means.model.llm, "config", None)
    known = [position_limit(config), getattr(means.engine, "positions", None)]
    return min((one for one in known if one is not None), default=None)


def _alone(request: Request) -> Planned:
    return Planned((request.head,), ((request.number,),), request.head_tokens + request.tail_tokens)


def read(features: Features, images: Sequence[ImageRef]) -> Read:
    """The features of those images that can be read: what cannot be read harms nothing else."""
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
        readable, failed = read(features, [ref])
        good |= readable
        bad |= failed
    return good, bad

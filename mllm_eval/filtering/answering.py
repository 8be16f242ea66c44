"""Judges images in batches; an image that can't be decoded, or on which the judge fails, gets a reason. No torch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

from mllm_eval.decoding import decode, decoders
from mllm_eval.errors import UserError, exception_words
from mllm_eval.filtering.judging import NOT_FINITE, Judge, Judgement
from mllm_eval.filtering.reading import Entry

# The errors that a damaged image raises.
BROKEN = (UserError, OSError, ValueError)
# The errors that an image can raise in a model or its processor. One that names a word of OURS, or a lack of memory,
# comes from the machine: no other image would fare better.
REFUSED = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, AssertionError, RuntimeError)
OURS = ("cuda", "cublas", "cudnn", "nccl", "hip error")
# If a model fails for the first so many images of a shard, it fails for every image.
HOPELESS = 64
LONGEST = 300  # characters of a model's reason


def judge_entries(entries: Iterable[Entry], judge: Judge) -> Iterator[tuple[Entry, Judgement | str]]:
    """The entries in order, each with its judgement or the reason why there is none. Threads decode ahead of the judge.

    A batch is the judge's batch size in entries, including damaged ones, so that it depends on the shard alone. An
    image that the judge fails on has the error as its reason. Raises UserError if it fails on the first `HOPELESS`.
    """
    stream = iter(entries)
    failures = _Failures()
    with ThreadPoolExecutor(decoders(), "decode") as pool:

        def begin() -> list[tuple[Entry, Future[Any] | None]]:
            return [(one, pool.submit(_prepare, judge, one) if one.data is not None else None)
                    for one in islice(stream, judge.batch)]  # fmt: skip

        coming = begin()
        while coming:
            here = [(one, None if future is None else future.result()) for one, future in coming]
            coming = begin()
            ready = [made for _, made in here if made is not None and not isinstance(made, BadPicture)]
            judged = iter(_judged(judge, ready))
            for entry, made in here:
                if made is None:
                    yield entry, entry.reason
                elif isinstance(made, BadPicture):
                    failures.look(entry, made.reason if made.fault == "no answer" else None)
                    yield entry._replace(fault=made.fault), made.reason
                else:
                    answer = next(judged)
                    failed = isinstance(answer, Failure) or answer == NOT_FINITE
                    failures.look(entry, str(answer) if failed else "")
                    yield (entry._replace(fault="no answer") if isinstance(answer, str) else entry), answer


@dataclass(frozen=True)
class BadPicture:
    """The reason why an image can't be decoded, or why the judge refuses it."""

    reason: str
    fault: str = "no image"


class Failure(str):
    """The error that a judge raised for one image, in words."""


class _Failures:
    """Counts images that the judge failed on until it judges the first one of a shard."""

    def __init__(self) -> None:
        self.count, self.judged = 0, False

    def look(self, entry: Entry, reason: str | None) -> None:
        """reason: of the failure, "" if there was none, None if the judge did not see the image."""
        if reason is None or self.judged:
            return
        self.judged = reason == ""
        self.count += 1
        if not self.judged and self.count >= HOPELESS:
            raise UserError(f"{entry.where}: the model fails on this image and the {HOPELESS - 1} before it: {reason}")


def _judged(judge: Judge, ready: list[Any]) -> list[Judgement | str]:
    """Judges a batch. If that raises an error, its images are judged one at a time, and only some of them fail."""
    if not ready:
        return []
    try:
        return judge.judge(ready)
    except REFUSED as problem:
        if _is_ours(problem):
            raise
        if len(ready) == 1:
            return [Failure(_words(problem))]
    return [one for each in ready for one in _judged(judge, [each])]


def _is_ours(problem: Exception) -> bool:
    # A RuntimeError is all that torch raises for many errors of the machine.
    if not isinstance(problem, RuntimeError):
        return False
    from mllm_eval.generate.backoff import ran_out

    return ran_out(problem) or any(one in str(problem).lower() for one in OURS)


def _words(problem: Exception) -> str:
    """An error in one line that is the same in every run: without addresses in memory."""
    said = re.sub(r" at 0x[0-9a-fA-F]+", "", " ".join(exception_words(problem).split()))
    return said.encode("utf-8", "backslashreplace").decode()[:LONGEST]


def _prepare(judge: Judge, entry: Entry) -> Any:
    assert entry.data is not None
    try:
        image = decode(entry.data, entry.where)
    except BROKEN as problem:
        return BadPicture(" ".join(str(problem).split()) or type(problem).__name__)
    try:
        return judge.prepare(image)
    except (UserError, *REFUSED) as problem:
        if _is_ours(problem):
            raise
        return BadPicture(_words(problem), "no answer")

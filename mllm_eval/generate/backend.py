"""The protocol of the backends that answer requests. Needs no torch.

There are four backends: this project's engine, the reference loop that it is checked against, a vLLM server, and a
stock transformers model.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from mllm_eval.answers import Answer
from mllm_eval.data.samples import ImageRef
from mllm_eval.generate.batching import Limits
from mllm_eval.generate.request import BROKEN, Request

T = TypeVar("T")
Loaded = tuple[dict[str, T], dict[str, str]]
"""SHA-256 -> what was loaded of each readable image, and SHA-256 -> the reason for each unreadable one."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Requests that are answered together; `work` is their relative cost, in a unit of the backend's choice."""

    requests: tuple[Request, ...]
    work: int


class Backend(Protocol):
    """Answers requests by greedy decoding.

    An answer depends on its request alone, except for the rounding of sums. A request that cannot be answered
    (unreadable image, prompt too long for the LLM) gets a failed answer and does not affect the others.
    """

    limits: Limits
    """How much is computed at a time. The caller lowers them when memory has run out."""

    @property
    def positions(self) -> int | None:
        """The maximum number of tokens of a prompt and its answer together; None where it is unknown."""
        ...

    def plan(self, requests: Sequence[Request], limits: Limits) -> list[Batch]:
        """Return batches that hold each request exactly once.

        The batches depend on the list and the limits alone. A resumed run therefore computes the same batches, with
        the same rounding.
        """
        ...

    def prefetch(self, requests: Sequence[Request]) -> None:
        """Begin to load the images of the next batch in the background."""
        ...

    def generate(self, requests: Sequence[Request]) -> list[Answer]:
        """Return the answers in the order of the requests. The requests of a planned batch are computed as one batch.

        Raises torch's errors where memory runs out, and UserError where a server no longer answers.
        """
        ...

    def count_tokens(self, request: Request) -> int | None:
        """Return the number of tokens of a planned request's prompt; None if unknown before it is answered."""
        ...


class ImageReader(Generic[T]):
    """Loads images in a background thread, ahead of the batch that shows them."""

    def __init__(self, load: Callable[[list[ImageRef]], Sequence[T]]) -> None:
        """`load` reads several images. Its UserError, OSError or ValueError fail the image; other errors propagate."""
        self._load = load
        self._pool: ThreadPoolExecutor | None = None
        self._coming: deque[tuple[frozenset[str], Future[Loaded[T]]]] = deque()
        self._here: tuple[frozenset[str], Loaded[T]] = frozenset(), ({}, {})

    def begin(self, images: Collection[ImageRef]) -> None:
        """Begin to load the images of a batch."""
        if self._pool is None:
            import torch

            # The encoder's rounding depends on torch's number of threads, a setting that each thread has of its own.
            self._pool = ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(torch.get_num_threads(),))
        names = frozenset(image.sha256 for image in images)
        self._coming.append((names, self._pool.submit(load_images, self._load, images)))

    def read(self, images: Collection[ImageRef]) -> Loaded[T]:
        """Return what was loaded of these images; other images of their batch may be included."""
        names = frozenset(image.sha256 for image in images)
        while not names <= self._here[0] and self._coming:
            coming, future = self._coming.popleft()
            if names <= coming:
                self._here = coming, future.result()
        if not names <= self._here[0]:
            self._here = names, load_images(self._load, images)
        return self._here[1]


def load_images(load: Callable[[list[ImageRef]], Sequence[Any]], images: Collection[ImageRef]) -> Loaded[Any]:
    """Load images, and where one of them cannot be read, load each alone, so that only the broken ones fail."""
    refs = list({image.sha256: image for image in images}.values())
    if not refs:
        return {}, {}
    try:
        return dict(zip((ref.sha256 for ref in refs), load(refs), strict=True)), {}
    except BROKEN as error:
        if len(refs) == 1:
            return {}, {refs[0].sha256: " ".join(str(error).split()) or type(error).__name__}
    loaded: dict[str, Any] = {}
    failed: dict[str, str] = {}
    for ref in refs:
        readable, broken = load_images(load, [ref])
        loaded |= readable
        failed |= broken
    return loaded, failed

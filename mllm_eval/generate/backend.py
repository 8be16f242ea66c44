"""What answers requests: one protocol, whoever stands behind it. No torch.

Four do: this project's engine, the plain loop that it is held against, a vLLM server, and a stock transformers model.
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
"""What was loaded of each image by its SHA-256, and for those that cannot be read why not."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Requests that are answered together; `work` is what that costs, in any unit."""

    requests: tuple[Request, ...]
    work: int


class Backend(Protocol):
    """Greedy answers to requests.

    An answer depends on its request alone, but for the rounding of sums. A request that cannot be answered (an image
    that cannot be read, a prompt beyond the positions) gets a failed answer, and costs no other its own.
    """

    limits: Limits
    """How much is computed at a time. Whoever asks lowers them where memory has run out."""

    @property
    def positions(self) -> int | None:
        """How many tokens a prompt and its answer can have together, where that is known."""
        ...

    def plan(self, requests: Sequence[Request], limits: Limits) -> list[Batch]:
        """Batches that hold each request once. Which, depends on the list and the limits alone, so that a run that
        was interrupted meets the same batches again, hence the same roundings."""
        ...

    def prefetch(self, requests: Sequence[Request]) -> None:
        """Begin to read what a batch shows that is asked next."""
        ...

    def generate(self, requests: Sequence[Request]) -> list[Answer]:
        """The answers in the order of the requests. Those of a planned batch are computed as one batch.

        Raises what torch raises where memory runs out, and UserError where a server answers no more.
        """
        ...

    def count_tokens(self, request: Request) -> int | None:
        """How many tokens a planned request's prompt has, where that is known before it is answered."""
        ...


class ImageReader(Generic[T]):
    """Images as a backend needs them, read by a thread of its own ahead of the batch that shows them."""

    def __init__(self, load: Callable[[list[ImageRef]], Sequence[T]]) -> None:
        """`load` reads several images; UserError, OSError or ValueError from it fail the image, all else goes on."""
        self._load = load
        self._pool: ThreadPoolExecutor | None = None
        self._coming: deque[tuple[frozenset[str], Future[Loaded[T]]]] = deque()
        self._here: tuple[frozenset[str], Loaded[T]] = frozenset(), ({}, {})

    def begin(self, images: Collection[ImageRef]) -> None:
        """Begin to read the images of a batch."""
        if self._pool is None:
            import torch

            # What the encoder computes depends on the number of threads, which every thread has of its own.
            self._pool = ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(torch.get_num_threads(),))
        names = frozenset(image.sha256 for image in images)
        self._coming.append((names, self._pool.submit(load_images, self._load, images)))

    def read(self, images: Collection[ImageRef]) -> Loaded[T]:
        """What was loaded of these images, and perhaps of others of their batch."""
        names = frozenset(image.sha256 for image in images)
        while not names <= self._here[0] and self._coming:
            coming, future = self._coming.popleft()
            if names <= coming:
                self._here = coming, future.result()
        if not names <= self._here[0]:
            self._here = names, load_images(self._load, images)
        return self._here[1]


def load_images(load: Callable[[list[ImageRef]], Sequence[Any]], images: Collection[ImageRef]) -> Loaded[Any]:
    """What `load` gives of those images that can be read: what cannot be read harms nothing else."""
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

"""Several processes that do one command together. torch is loaded for it only where there are several."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from mllm_eval.environment import world
from mllm_eval.generate import Share

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mllm_eval.data.samples import ImageRef
    from mllm_eval.features import Features
    from mllm_eval.pipeline.reporter import Progress

Decision = TypeVar("Decision")


def several() -> bool:
    """Whether a launcher has started more than one."""
    return world()[1] > 1


def meet() -> None:
    """Wait for the other processes, if there are any."""
    if several():
        from mllm_eval.train.ranks import join_processes

        join_processes(True)


@contextmanager
def sharing() -> Iterator[Share]:
    """`meet`, and this process's share of what all do in the `with` block."""
    meet()
    share = Share.of_group() if several() else Share()
    yield share
    share.close()


def decided(decide: Callable[[], Decision]) -> Decision:
    """What rank 0 decides or does, on all processes. Raises UserError on all of them where it did."""
    if not several():
        return decide()
    from mllm_eval.train.ranks import decided as decided_together

    return decided_together(decide)


def encode(
    features: Features,
    images: Sequence[ImageRef],
    progress: Progress,
    broken: Callable[[ImageRef, Exception], None],
) -> None:
    """Fill the feature store with those images, each process with its share of what is missing."""
    if not several():
        features.fill(images, progress, broken)
        return
    from mllm_eval.train.ranks import encode_together

    encode_together(features, {image.sha256: image for image in images}, progress, broken)

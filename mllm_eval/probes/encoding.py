"""Encodes images batch by batch; threads decode them ahead, and several processes share each batch."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mllm_eval.adapters.base import EncoderModel
from mllm_eval.decoding import decoders
from mllm_eval.distributed import all_gathered, all_parts, own_parts
from mllm_eval.probes.examples import BROKEN

# Images per forward pass. The result depends on it: the last bits of an encoder's features vary with the batch's shape.
TOGETHER = 64 if torch.cuda.is_available() else 8
AHEAD = 2
View = Callable[[], NDArray[np.float32]]


class EncodedViews(NamedTuple):
    """Features float32 [n, 2, L, D] of a batch: for each layer the summary and the mean over patches.

    `broken`: position in the batch -> why that image can't be read; its features are 0.
    """

    features: Tensor
    broken: dict[int, str]


def summaries(model: EncoderModel, pixels: Tensor, layers: Sequence[int]) -> Tensor:
    """Features float32 [B, 2, L, D]: for each layer the summary and the mean over patches."""
    maps = model(pixels, layers)
    pairs = [torch.stack([one.summary, one.patches.flatten(1, 2).mean(1)], 1) for one in maps]
    return torch.stack(pairs, 2).float()


def encoded(model: EncoderModel, batches: Iterable[Sequence[View]], layers: Sequence[int]) -> Iterator[EncodedViews]:
    """The features of batches of views; each view is made by calling it in a thread.

    A batch is split into parts of `TOGETHER`, and the last part is padded with zeros. An image's features therefore do
    not depend on the number of processes, nor on the other images of its batch.
    """
    weight = next(model.parameters())
    coming: deque[tuple[int, list[tuple[int, list[Future[Any]]]]]] = deque()
    todo = iter(batches)
    with ThreadPoolExecutor(decoders(), "view") as pool:

        def prepare() -> None:
            if (views := next(todo, None)) is None:
                return
            parts = -(-len(views) // TOGETHER)
            own = [
                (part, [pool.submit(_made, view) for view in views[part * TOGETHER : (part + 1) * TOGETHER]])
                for part in own_parts(parts)
            ]
            coming.append((len(views), own))

        try:
            for _ in range(AHEAD):
                prepare()
            while coming:
                count, own = coming.popleft()
                yield _batch(model, weight, count, own, layers)
                prepare()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _batch(
    model: EncoderModel, weight: Tensor, count: int, own: list[tuple[int, list[Future[Any]]]], layers: Sequence[int]
) -> EncodedViews:
    broken: dict[int, str] = {}
    made = []
    like = torch.zeros((TOGETHER, 2, len(layers), model.width), device=weight.device)
    for part, futures in own:
        pixels, places = [], []
        for at, future in enumerate(futures):
            outcome = future.result()
            if isinstance(outcome, Exception):
                broken[part * TOGETHER + at] = str(outcome)
            else:
                pixels.append(outcome)
                places.append(at)
        if not pixels:
            made.append(like)
            continue
        filled = np.zeros((TOGETHER, *pixels[0].shape), np.float32)
        filled[places] = pixels
        features = summaries(model, torch.from_numpy(filled).to(weight.device, weight.dtype), layers)
        lost = [at for at in range(TOGETHER) if at not in places]
        features[lost] = 0
        made.append(features)
    parts = all_parts(made, -(-count // TOGETHER), like)
    everyones = {place: why for one in all_gathered(broken) for place, why in one.items()}
    return EncodedViews(torch.cat(parts)[:count], dict(sorted(everyones.items())))


def _made(view: View) -> NDArray[np.float32] | Exception:
    try:
        return view()
    except BROKEN as problem:
        return problem

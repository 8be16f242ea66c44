"""Trains heads on patch features of the frozen encoder, one AdamW step per batch, and tests them image by image.

Only the head gets a gradient: the batch norm's statistics depend on the frozen encoder's features alone. The
gradient is a sum over groups of crops. Each process computes its groups, and all processes add the same numbers in the
same order, so that the weights do not depend on the number of processes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mllm_eval.adapters.base import EncoderModel
from mllm_eval.catalog.probe import DenseProbe, DepthProbe, SegmentationProbe
from mllm_eval.decoding import decoders
from mllm_eval.distributed import all_gathered, own_parts, place_in_group
from mllm_eval.errors import UserError
from mllm_eval.probes.densehead import DenseHead, HeadTraining
from mllm_eval.probes.depth import Depth
from mllm_eval.probes.examples import BROKEN, Examples
from mllm_eval.probes.keeping import StateFile, number, reasons, told_reasons
from mllm_eval.probes.order import Order
from mllm_eval.probes.outcome import Group, Outcome, chosen_words, hold_to_any
from mllm_eval.probes.segmentation import Segmentation
from mllm_eval.probes.tasks import DenseTask, Tested
from mllm_eval.probes.views import drawing
from mllm_eval.progress import Progress

# Number of test images after which the processes exchange their results and may save them.
CHUNK = 16
AHEAD = 2


class Crops(NamedTuple):
    """A group of training crops: pixels float32 [B, 3, H, W] and targets [B, H, W]; both None if no crop is usable.

    `broken`: image id -> why it can't be used.
    """

    pixels: Tensor | None
    targets: Tensor | None
    broken: dict[str, str]


def task_of(protocol: DenseProbe, model: EncoderModel) -> DenseTask:
    """The task of a protocol: segmentation or depth."""
    if isinstance(protocol, SegmentationProbe):
        return Segmentation(protocol, model.facts)
    assert isinstance(protocol, DepthProbe)
    return Depth(protocol, model.facts)


def measure(
    protocol: DenseProbe, model: EncoderModel, train: Examples, test: Examples, groups: Sequence[tuple[int, ...]],
    kept: StateFile, progress: Progress,
) -> Outcome:  # fmt: skip
    """Trains a head for each group of layers, all on the same crops, and tests each on every test image.

    It continues from the state in `kept`, if there is one. Raises UserError if no image of a batch, or no test image,
    can be used.
    """
    task = task_of(protocol, model)
    place = next(model.parameters()).device
    heads = [
        DenseHead(task.channels(len(layers)), task.outputs, task.batch_norm, protocol.seed, place) for layers in groups
    ]  # fmt: skip
    state = kept.load()
    # State that an older version saved does not say which images were left out, and is not used.
    begun = int(state["step"]) if {"step", "left_out"} <= state.keys() else 0
    training = HeadTraining(protocol, heads, groups, task, model)
    if begun:
        training.restore(state)
    total = protocol.steps * protocol.batch + len(test)
    left_out = told_reasons(state["left_out"]) if begun else {}

    def so_far(step: int) -> dict[str, Tensor]:
        return {**training.state(), "step": number(step), "left_out": reasons(left_out)}

    for step, crops in enumerate(_crops(protocol, task, train, begun), start=begun):
        broken: dict[str, str] = {}
        usable = False
        for some, any_usable in all_gathered(unusable_crops(crops)):
            broken |= some
            usable = usable or any_usable
        left_out.update(broken)
        # Fewer images than a batch has come several times in it, so that the broken ones say nothing by their number.
        if not usable:
            raise UserError(f"step {step}: none of its {len(broken):,} training images can be used; the first: "
                            f"{next(iter(broken.values()))}")  # fmt: skip
        training.step(step, crops)
        progress((step + 1) * protocol.batch, total)
        if kept.due():
            kept.save(so_far(step + 1))
    if begun < protocol.steps:
        kept.save(so_far(protocol.steps))
    measured, failed = _tested(
        task, training, test, kept, lambda done: progress(protocol.steps * protocol.batch + done, total)
    )
    hold_to_any(len(test) - len(failed), len(test), failed, "test images")
    for layers, one in zip(groups, measured, strict=True):
        one.layers = layers
    learnt_from = min(len(train), protocol.steps * protocol.batch) - len(left_out)
    return Outcome(
        measured, chosen_words(protocol.selection, protocol.holdout), len(test), failed, left_out, learnt_from
    )


def unusable_crops(crops: Sequence[Crops]) -> tuple[dict[str, str], bool]:
    """The images of this process's crops that can't be used, and whether any crop can."""
    broken = {name: why for one in crops for name, why in one.broken.items()}
    return broken, any(one.pixels is not None for one in crops)


def _crops(protocol: DenseProbe, task: DenseTask, train: Examples, begun: int) -> Iterator[list[Crops]]:
    """The groups of crops of each step that this process computes, prepared ahead by threads."""
    order = Order(len(train), protocol.batch, protocol.seed)
    numbers = own_parts(protocol.batch // protocol.group)
    coming: deque[list[list[tuple[str, Future[Any]]]]] = deque()
    with ThreadPoolExecutor(decoders(), "crop") as pool:

        def made(step: int, place: int, at: int) -> Any:
            try:
                return task.view(train[at], drawing(protocol.seed, step, place))
            except BROKEN as problem:
                return problem

        def prepare(step: int) -> None:
            if step >= protocol.steps:
                return
            places = order.places(step)
            spans = [range(one * protocol.group, (one + 1) * protocol.group) for one in numbers]
            coming.append(
                [[(train[places[at]].id, pool.submit(made, step, at, places[at])) for at in span] for span in spans]
            )

        try:
            for step in range(begun, begun + AHEAD):
                prepare(step)
            for step in range(begun, protocol.steps):
                waiting = coming.popleft()
                yield [_group(one) for one in waiting]
                prepare(step + AHEAD)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _group(waiting: Sequence[tuple[str, Future[Any]]]) -> Crops:
    pixels, targets, broken = [], [], {}
    for name, future in waiting:
        outcome = future.result()
        if isinstance(outcome, Exception):
            broken[name] = str(outcome)
        else:
            pixels.append(outcome[0])
            targets.append(outcome[1])
    if not pixels:
        return Crops(None, None, broken)
    return Crops(torch.from_numpy(np.stack(pixels)), torch.from_numpy(np.stack(targets)), broken)


def _tested(
    task: DenseTask, training: HeadTraining, test: Examples, kept: StateFile, progress: Callable[[int], None]
) -> tuple[list[Group], dict[str, str]]:
    """Each test image's contribution under each head, and the images that can't be tested, with the reason."""
    count = len(training.heads)
    arrays = _empty(task, len(test), count)
    failed: dict[str, str] = {}
    state = kept.load()
    begun = int(state["test.done"]) if {"test.done", "test.unusable"} <= state.keys() else 0
    for name, array in arrays.items():
        if begun:
            array[:, :begun] = state[f"test.{name}"].numpy()
    if begun:
        failed = told_reasons(state["test.unusable"])
    own, world = place_in_group()

    def one(at: int) -> list[Tested] | str:
        try:
            return task.test(test[at], training.logits)
        except BROKEN as problem:
            return str(problem)

    for start in range(begun, len(test), CHUNK):
        stop = min(len(test), start + CHUNK)
        mine = {at: one(at) for at in range(start, stop) if at % world == own}
        for at, outcome in sorted(pair for each in all_gathered(mine) for pair in each.items()):
            if isinstance(outcome, str):
                failed[test[at].id] = outcome
                continue
            for head, tested in enumerate(outcome):
                if tested.score is not None:
                    arrays["scores"][head, at] = tested.score
                else:
                    arrays["inside"][head, at], arrays["union"][head, at] = tested.inside, tested.union
        progress(stop)
        if kept.due():
            held = {f"test.{name}": torch.from_numpy(array[:, :stop].copy()) for name, array in arrays.items()}
            kept.save({**kept.load(), **held, "test.unusable": reasons(failed), "test.done": number(stop)})
    return [Group((), **{name: array[head] for name, array in arrays.items()}) for head in range(count)], failed


def _empty(task: DenseTask, images: int, heads: int) -> dict[str, Any]:
    if isinstance(task, Segmentation):
        return {name: np.zeros((heads, images, task.outputs), np.int32) for name in ("inside", "union")}
    return {"scores": np.full((heads, images), np.nan, np.float32)}

"""Linear heads on whole images: all are trained in one pass over random crops, and the best one is tested."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mllm_eval.adapters.base import EncoderModel
from mllm_eval.catalog.probe import LinearProbe
from mllm_eval.errors import UserError
from mllm_eval.probes.encoding import encoded
from mllm_eval.probes.examples import Example, Examples
from mllm_eval.probes.grid import Descent, Heads, Input
from mllm_eval.probes.keeping import StateFile, number, reasons, told_reasons
from mllm_eval.probes.order import Order
from mllm_eval.probes.outcome import Group, Outcome, chosen_words, hold_to_any
from mllm_eval.probes.views import drawing, random_view
from mllm_eval.progress import Progress

Layers = Sequence[tuple[int, ...]]
# Test images per batch; the answers may be saved after each.
CHUNK = 64


def inputs_of(protocol: LinearProbe, groups: Layers) -> list[list[Input]]:
    """The inputs of each group: its last layers, at each depth of the protocol, with and without the mean patch."""
    inputs = []
    for layers in groups:
        depths = sorted({min(depth, len(layers)) for depth in protocol.depths})
        inputs.append([Input(layers[-depth:], mean) for depth in depths for mean in protocol.patch_mean])
    return inputs


def measure(
    protocol: LinearProbe, model: EncoderModel, train: Examples, test: Examples, groups: Layers, kept: StateFile,
    progress: Progress,
) -> Outcome:  # fmt: skip
    """Trains the heads, chooses one for each group of layers, and tests it.

    `model` must preprocess as `views.probed` describes. The measurement continues from the state in `kept`, if there is
    one. Raises UserError if no image of a batch, or no image to test, can be read.
    """
    learnt, held = (
        train.split(protocol.holdout, protocol.seed) if protocol.selection == "train_holdout" else (train, test)
    )
    of_group = inputs_of(protocol, groups)
    every = list(dict.fromkeys(one for some in of_group for one in some))
    read = sorted({layer for one in every for layer in one.layers})
    scaled = [rate * protocol.batch / protocol.rate_batch for rate in protocol.rates]
    weight = next(model.parameters())
    descent = Descent(protocol.deviation, protocol.momentum, protocol.seed)
    heads = Heads(every, scaled, len(train.classes), read, model.width, descent, weight.device)
    state = kept.load()
    # State that another version of this code saved has other names or shapes and is not used.
    begun = int(state["step"]) if {"step", "left_out"} <= state.keys() and heads.restore(state) else 0
    asked = len(held) * (protocol.selection == "train_holdout") + len(test)
    total = protocol.steps * protocol.batch + asked
    left_out = told_reasons(state["left_out"]) if begun else {}
    order = Order(len(learnt), protocol.batch, protocol.seed)
    for step, made in enumerate(encoded(model, _views(protocol, model, learnt, order, begun), read), start=begun):
        places = order.places(step)
        left_out.update({learnt[places[at]].id: why for at, why in made.broken.items()})
        good = [at for at in range(len(places)) if at not in made.broken]
        if not good:
            raise UserError(f"step {step}: none of {len(places)} training images can be read; "
                            f"the first: {next(iter(made.broken.values()))}")  # fmt: skip
        labels = torch.tensor([learnt[places[at]].label for at in good], device=weight.device)
        heads.step(made.features[good] if made.broken else made.features, labels, step / protocol.steps)
        progress((step + 1) * protocol.batch, total)
        if kept.due():
            kept.save({**heads.state(), "step": number(step + 1), "left_out": reasons(left_out)})
    learnt_from = min(len(learnt), protocol.steps * protocol.batch) - len(left_out)
    if begun < protocol.steps:
        kept.save({**heads.state(), "step": number(protocol.steps), "left_out": reasons(left_out)})
    done = protocol.steps * protocol.batch
    right: dict[str, NDArray[np.float32]] = {}
    broken: dict[str, str] = {}
    for name, examples in {"held": held, "test": test}.items():
        if name == "held" and protocol.selection != "train_holdout":
            continue

        def note(tested: int, before: int = done) -> None:
            progress(before + tested, total)

        right[name], failed = _tested(name, heads, model, examples, read, kept, note)
        hold_to_any(len(examples) - len(failed), len(examples), failed, "images")
        (left_out if name == "held" else broken).update(failed)
        done += len(examples)
    shares = np.nanmean(right.get("held", right["test"]), 0)
    measured = [
        _chosen(heads, every, own, layers, shares, right["test"], protocol)
        for layers, own in zip(groups, of_group, strict=True)
    ]
    words = (
        f"best of {len(of_group[0]) * len(protocol.rates)} heads; {chosen_words(protocol.selection, protocol.holdout)}"
    )
    return Outcome(measured, words, len(test), broken, left_out, learnt_from)


def _views(
    protocol: LinearProbe, model: EncoderModel, examples: Examples, order: Order, begun: int
) -> Iterator[list[Callable[[], NDArray[np.float32]]]]:
    def view(example: Example, step: int, place: int) -> NDArray[np.float32]:
        return random_view(example.image(), model.facts, protocol, drawing(protocol.seed, step, place))

    for step, places in enumerate(order.steps(begun, protocol.steps), start=begun):
        yield [partial(view, examples[at], step, place) for place, at in enumerate(places)]


def _tested(
    name: str, heads: Heads, model: EncoderModel, examples: Examples, read: Sequence[int], kept: StateFile,
    progress: Callable[[int], None],
) -> tuple[NDArray[np.float32], dict[str, str]]:  # fmt: skip
    """Whether each head's answer is right, float32 [N, heads], nan for images that can't be read; and these images."""
    right = np.full((len(examples), len(heads)), np.nan, np.float32)
    state = kept.load()
    begun = int(state[f"{name}.done"]) if {f"{name}.done", f"{name}.failed"} <= state.keys() else 0
    failed: dict[str, str] = {}
    if begun:
        right[:begun] = state[f"{name}.right"].numpy()
        failed = told_reasons(state[f"{name}.failed"])

    def keep(stop: int) -> None:
        own = {"done": number(stop), "right": torch.from_numpy(right[:stop].copy()), "failed": reasons(failed)}
        kept.save({**kept.load(), **{f"{name}.{key}": one for key, one in own.items()}})

    def views() -> Iterator[list[Callable[[], NDArray[np.float32]]]]:
        for start in range(begun, len(examples), CHUNK):
            yield [partial(_centre, model, one) for one in examples[start : start + CHUNK]]

    at = begun
    for made in encoded(model, views(), read):
        some = examples[at : at + CHUNK]
        labels = torch.tensor([one.label for one in some], device=made.features.device)
        answers: Tensor = heads.logits(made.features).argmax(2) == labels[:, None]
        right[at : at + len(some)] = answers.float().cpu().numpy()
        for unread, why in made.broken.items():
            right[at + unread] = np.nan
            failed[some[unread].id] = why
        at += len(some)
        progress(at)
        if kept.due():
            keep(at)
    if at > begun:
        keep(at)
    return right, failed


def _centre(model: EncoderModel, example: Example) -> NDArray[np.float32]:
    return model.preprocess(example.image())


def _chosen(
    heads: Heads, every: Sequence[Input], own: Sequence[Input], layers: tuple[int, ...], shares: NDArray[np.float64],
    right: NDArray[np.float32], protocol: LinearProbe,
) -> Group:  # fmt: skip
    """The best head of a group by its accuracy `shares` [heads]; the first one of ties."""
    count = len(protocol.rates)
    places = [every.index(one) * count + rate for one in own for rate in range(count)]
    best = places[int(np.argmax(shares[places]))]
    read, rate = every[best // count], protocol.rates[best % count]
    chosen = {"rate": rate, "reads": read.words(), "on_selection": round(100 * float(shares[best]), 4)}
    return Group(layers, chosen, scores=right[:, best])

"""k nearest neighbours on stored summaries: exact, in chunks, so that memory does not grow with the training set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from mllm_eval.catalog.probe import NeighbourProbe
from mllm_eval.errors import UserError
from mllm_eval.probes.examples import Examples, held_out
from mllm_eval.probes.outcome import Group, Outcome, chosen_words, hold_to_any
from mllm_eval.probes.stored import ROWS, Summaries

Stored = Callable[[Examples], Summaries]


def nearest(queries: Tensor, references: Callable[[int, int], Tensor], count: int, most: int) -> tuple[Tensor, Tensor]:
    """The cosines and indices [Q, most] of the nearest references for queries [Q, D], nearest first.

    There are `count` references; `references(start, stop)` returns some of them as [n, D]. Of equally near references
    the one with the lower index comes first. With fewer than `most` references, all are returned.
    """
    asked = F.normalize(queries.float(), dim=1)
    near = torch.full((len(asked), 0), -2.0)
    at = torch.zeros((len(asked), 0), dtype=torch.int64)
    for start in range(0, count, ROWS):
        some = F.normalize(references(start, min(count, start + ROWS)).float(), dim=1)
        cosines = asked @ some.T
        places = torch.arange(start, start + len(some)).expand(len(asked), -1)
        near, at = torch.cat([near, cosines], 1), torch.cat([at, places], 1)
        order = near.argsort(dim=1, descending=True, stable=True)[:, :most]
        near, at = near.gather(1, order), at.gather(1, order)
    return near, at


def votes(cosines: Tensor, labels: Tensor, classes: int, temperature: float) -> Tensor:
    """The class int64 [Q] with the largest sum of exp(cosine / temperature) over k neighbours.

    `cosines` and `labels` are those of the neighbours, [Q, k], nearest first.
    """
    weights = ((cosines - cosines[:, :1]) / temperature).exp()
    return torch.zeros(len(cosines), classes).scatter_add_(1, labels, weights).argmax(1)


def measure(
    protocol: NeighbourProbe, stored: Stored, train: Examples, test: Examples, groups: Sequence[tuple[int, ...]]
) -> Outcome:
    """Chooses the number of neighbours for each group of layers, and classifies the test images by all training images.

    Raises UserError if no training or no test image can be read, or if the training images are too few.
    """
    every = stored(train)
    hold_to_any(len(every), len(train), every.broken, "training images")
    asked = stored(test)
    hold_to_any(len(asked), len(test), asked.broken, "test images")
    labels = torch.from_numpy(train.labels()[every.places])
    wanted = torch.from_numpy(test.labels()[asked.places])
    held = _held(protocol, len(every))
    # A k above the number of references would silently be a smaller k.
    known = len(every) if held is None else len(held[0])
    protocol, few = _within(protocol, known)
    scored_groups = []
    for layers in groups:
        at = [every.layers.index(layer) for layer in layers]
        answers = _answered(protocol, every, asked, at, _Labels(labels, len(train.classes)), np.arange(len(every)))
        right = (answers == wanted[:, None]).numpy()
        choice = right
        if held is not None:
            own = _answered(protocol, every, every, at, _Labels(labels, len(train.classes)), held[0], held[1])
            choice = (own == labels[held[1]][:, None]).numpy()
        shares = choice.mean(0)
        best = int(np.argmax(shares))
        scores = np.full(len(test), np.nan, np.float32)
        scores[asked.places] = right[:, best]
        chosen: dict[str, object] = {
            "neighbours": protocol.neighbours[best],
            "on_selection": round(100 * float(shares[best]), 4),
        }
        further = {f"k={k}": 100 * float(right[:, i].mean()) for i, k in enumerate(protocol.neighbours)}
        scored_groups.append(Group(layers, chosen, scores=scores, further=further))
    words = f"best k of {', '.join(map(str, protocol.neighbours))}; "
    if few:
        words += f"{', '.join(map(str, few))} left out, since {known:,} training images answer; "
    words += chosen_words(protocol.selection, protocol.holdout, "k")
    return Outcome(scored_groups, words, len(test), asked.broken, every.broken, len(every))


def _within(protocol: NeighbourProbe, known: int) -> tuple[NeighbourProbe, list[int]]:
    """The protocol with the values of k that `known` images allow, and the values that they do not allow.

    Raises UserError if they allow none.
    """
    fit = [k for k in protocol.neighbours if k <= known]
    if not fit:
        raise UserError(f"probe {protocol.name}: {known:,} training images have no {min(protocol.neighbours):,} "
                        "neighbours; lower `neighbours`, or bring more images")  # fmt: skip
    return protocol.model_copy(update={"neighbours": fit}), [k for k in protocol.neighbours if k > known]


def _held(protocol: NeighbourProbe, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """The indices of the training images that vote and of those held out, if k is chosen on a hold-out; else None."""
    if protocol.selection != "train_holdout":
        return None
    return held_out(count, protocol.holdout, protocol.seed)


class _Labels(NamedTuple):
    """The class numbers int64 [N] of images, and how many classes there are."""

    numbers: Tensor
    classes: int


def _answered(
    protocol: NeighbourProbe, references: Summaries, queries: Summaries, layers: Sequence[int], labels: _Labels,
    among: NDArray[np.int64], asking: NDArray[np.int64] | None = None,
) -> Tensor:  # fmt: skip
    """The classes [Q, K] that each of K numbers of neighbours votes for.

    `among` are the indices of the references that vote; `asking` those of the queries (default: all).
    """
    count = len(queries) if asking is None else len(asking)
    most = max(protocol.neighbours)

    def row(held: Summaries, places: NDArray[np.int64]) -> Tensor:
        low, high = int(places.min()), int(places.max()) + 1
        return held.rows(low, high)[torch.from_numpy(places - low)][:, list(layers)].flatten(1)

    voted = []
    for start in range(0, count, ROWS):
        places = np.arange(start, min(count, start + ROWS))
        some = row(queries, places if asking is None else asking[places])
        cosines, at = nearest(some, lambda a, b: row(references, among[a:b]), len(among), most)
        named = labels.numbers[torch.from_numpy(among)[at]]
        voted.append(torch.stack([votes(cosines[:, :k], named[:, :k], labels.classes, protocol.temperature)
                                  for k in protocol.neighbours], 1))  # fmt: skip
    return torch.cat(voted)

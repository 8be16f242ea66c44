"""Logistic regression on stored summaries, by scikit-learn. It holds all training summaries in memory."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mllm_eval.catalog.probe import LogisticProbe
from mllm_eval.errors import UserError
from mllm_eval.probes.examples import Examples, held_out
from mllm_eval.probes.neighbours import Stored
from mllm_eval.probes.outcome import Group, Outcome, chosen_words, hold_to_any
from mllm_eval.probes.stored import ROWS, Summaries

Doubles = NDArray[np.float64]


def strengths(protocol: LogisticProbe) -> list[float]:
    """The values of C to try, from the strongest penalty to the weakest."""
    return [float(10**power) for power in np.linspace(protocol.low, protocol.high, protocol.count)]


def fitted(
    protocol: LogisticProbe, strength: float, rows: Doubles, labels: NDArray[np.int64], start: Any = None
) -> Any:
    """A logistic regression fitted to float64 rows [N, D], starting from the weights of `start` if it is given."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    made = LogisticRegression(C=strength, max_iter=protocol.iterations, tol=protocol.tolerance, warm_start=True)
    if start is not None:
        made.coef_, made.intercept_, made.classes_ = start.coef_.copy(), start.intercept_.copy(), start.classes_
    with warnings.catch_warnings():
        # The protocol limits the iterations, and the result states whether the limit was reached.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return made.fit(rows, labels)


def measure(
    protocol: LogisticProbe, stored: Stored, train: Examples, test: Examples, groups: Sequence[tuple[int, ...]]
) -> Outcome:
    """Chooses C for each group of layers, fits all training images with it, and classifies the test images.

    Raises UserError if no training or no test image can be read, or if the training images have fewer than two classes,
    with or without those held out.
    """
    every = stored(train)
    hold_to_any(len(every), len(train), every.broken, "training images")
    asked = stored(test)
    hold_to_any(len(asked), len(test), asked.broken, "test images")
    labels, wanted = train.labels()[every.places], test.labels()[asked.places]
    if len(np.unique(labels)) < 2:
        raise UserError(f"probe {protocol.name}: the training images are all of one class")
    learnt, held = held_out(len(every), protocol.holdout, protocol.seed)
    if protocol.selection == "train_holdout" and len(np.unique(labels[learnt])) < 2:
        raise UserError(f"probe {protocol.name}: without the {len(held):,} held out, the training images are of fewer "
                        "than two classes; bring more images, or lower `holdout`")  # fmt: skip
    scored_groups = []
    for layers in groups:
        at = [every.layers.index(layer) for layer in layers]
        rows, shown = _rows(every, at), _rows(asked, at)
        if protocol.selection == "train_holdout":
            fit, fit_labels, judged, right = rows[learnt], labels[learnt], rows[held], labels[held]
        else:
            fit, fit_labels, judged, right = rows, labels, shown, wanted
        shares, one = [], None
        for strength in strengths(protocol):
            one = fitted(protocol, strength, fit, fit_labels, one)
            shares.append(float(np.mean(one.predict(judged) == right)))
        best = int(np.argmax(shares))
        final = fitted(protocol, strengths(protocol)[best], rows, labels)
        scores = np.full(len(test), np.nan, np.float32)
        scores[asked.places] = final.predict(shown) == wanted
        chosen: dict[str, object] = {
            "C": strengths(protocol)[best],
            "on_selection": round(100 * shares[best], 4),
            "iterations": int(np.max(final.n_iter_)),
            "converged": bool(np.max(final.n_iter_) < protocol.iterations),
        }
        scored_groups.append(Group(layers, chosen, scores=scores))
    words = f"best C of {protocol.count}; {chosen_words(protocol.selection, protocol.holdout, 'C')}"
    return Outcome(scored_groups, words, len(test), asked.broken, every.broken, len(every))


def _rows(held: Summaries, layers: Sequence[int]) -> Doubles:
    """The features float64 [N, D] of all readable examples."""
    parts = [
        held.rows(start, min(len(held), start + ROWS))[:, list(layers)].flatten(1).double().numpy()
        for start in range(0, len(held), ROWS)
    ]
    return np.concatenate(parts)

"""What pairs, features and scores must be for a score of alignment to mean something."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from mllm_eval.alignment.metrics import OVER_NEIGHBOURS
from mllm_eval.alignment.protocol import Alignment, MetricName
from mllm_eval.errors import UserError

# The fewest pairs of each metric. Two samples always have a CKA of 1, and the unbiased estimator divides by N - 3. With
# k + 1 samples, each is a neighbour of every other, so that shuffled captions agree as well as the right ones.
FEWEST: dict[MetricName, int] = {"cka": 3, "unbiased_cka": 4}


def hold_enough(protocol: Alignment, samples: int) -> None:
    """Raises UserError if there are too few samples for the protocol's metric."""
    fewest = FEWEST.get(protocol.metric)
    if fewest is None and samples < protocol.neighbours + 2:
        raise UserError(
            f"{samples} pairs are too few for {protocol.metric} with {protocol.neighbours} neighbours, which needs "
            f"{protocol.neighbours + 2}; lower `neighbours` in the protocol, or bring more pairs"
        )
    if fewest is not None and samples < fewest:
        raise UserError(f"{samples} pairs are too few for {protocol.metric}, which needs {fewest}; bring more pairs")


def hold_permutations(metric: MetricName, permutations: int | None) -> None:
    """Raises UserError for a number of permutations that is negative, or that the metric has no use for."""
    if permutations is not None and permutations < 0:
        raise UserError(f"permutations: {permutations} is negative; 0 skips the null distribution")
    if permutations and metric not in OVER_NEIGHBOURS:
        known = ", ".join(OVER_NEIGHBOURS)
        raise UserError(
            f"{metric} has no null distribution (only {known} have one); leave out permutations, or choose one of these"
        )


def hold_finite(features: Tensor, layers: Sequence[str], where: Sequence[str]) -> None:
    """Raises UserError if features [L, N, D] are nan or infinite, or if the length of a vector overflows.

    layers: the names of the L layers, with their model. where: the places of the N samples, for the message.
    """
    wrong = ~features.norm(dim=-1).isfinite()
    layer = next((at for at, own in enumerate(wrong) if own.any()), None)
    if layer is not None:
        numbers = wrong[layer].nonzero()[:, 0].tolist()
        affected = int(wrong.any(1).sum())
        raise UserError(
            f"{layers[layer]}: its features are not finite for {len(numbers)} of {len(where)} pairs, the first "
            f"{where[numbers[0]]}{f' (layers: {affected})' if affected > 1 else ''}; the weights are damaged or "
            "diverged, or their precision is too low: take other weights, or the same in float32"
        )


def hold_scores(grid: Tensor, metric: MetricName, blocks: Sequence[str], layers: Sequence[str]) -> None:
    """Raises UserError if a score of the grid [Lx, Ly] is not finite. `blocks`, `layers`: names of rows and columns."""
    wrong = (~grid.isfinite()).nonzero().tolist()
    if wrong:
        block, layer = wrong[0]
        raise UserError(
            f"{metric} has no value for {blocks[block]} and {layers[layer]}"
            f"{f' (pairs of layers: {len(wrong)})' if len(wrong) > 1 else ''}: the features of one of them do not "
            "differ between the samples, or there are too few samples; bring more and different pairs of image and "
            "caption, or choose another metric"
        )

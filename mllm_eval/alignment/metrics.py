"""Metrics of the similarity of two sets of features of the same samples, for all pairs of layers at once.

Mutual k-NN is the metric of Huh et al. 2024 (arXiv:2405.07987). The others are those of its released code
(minyoungg/platonic-rep, metrics.py), under the same names. Neighbours and Gram matrices are computed once per layer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mllm_eval.alignment.protocol import MetricName
from mllm_eval.errors import UserError

# Cosines in double precision are exact to about 1e-16: what varies by less than this does not vary.
ROUNDING = 1e-13


def clipped(features: Tensor, quantile: float) -> Tensor:
    """The features [L, N, D] as float32, clamped to [-t, t].

    t is the mean over samples of the `quantile` of a sample's absolute values in all layers; 1 clamps nothing.
    """
    features = features.float()
    if quantile >= 1:
        return features
    flat = features.abs().transpose(0, 1).flatten(1)
    limit = float(torch.stack([torch.quantile(sample, quantile) for sample in flat]).mean())
    return features.clamp(-limit, limit)


def normalised(features: Tensor) -> Tensor:
    """The features [L, N, D] with each sample's vector of each layer scaled to length one."""
    return F.normalize(features, dim=-1)


def nearest(features: Tensor, count: int) -> Tensor:
    """The indices int64 [L, N, count] of each sample's nearest others by cosine, nearest first; ties by lower index.

    Raises UserError if there are not more than `count` samples, and for features that are not finite.
    """
    samples = features.shape[1]
    if samples <= count:
        raise UserError(f"{samples} pairs have no {count} neighbours each; lower `neighbours`, or bring more pairs")
    neighbours = []
    for number, layer in enumerate(normalised(features)):
        if not layer.isfinite().all():
            raise UserError(f"the features of layer {number} (from 0) are not finite; nothing is nearest to them")
        similar = layer @ layer.T
        similar.fill_diagonal_(-torch.inf)
        neighbours.append(_largest(similar, count))
    return torch.stack(neighbours)


def _largest(values: Tensor, count: int) -> Tensor:
    """The indices [N, count] of each row's largest values [N, M], M > count; ties by lower index.

    It equals the head of a stable sort in a tenth of the time. `topk` does not specify which of equal values it takes,
    so rows where that matters are sorted.
    """
    top = values.topk(count + 1, dim=1)
    places = top.indices[:, :count].sort(dim=1).values
    order = values.gather(1, places).sort(dim=1, descending=True, stable=True).indices
    places = places.gather(1, order)
    open_rows = (top.values[:, count - 1] == top.values[:, count]).nonzero()[:, 0]
    if len(open_rows):
        places[open_rows] = values[open_rows].sort(dim=1, descending=True, stable=True).indices[:, :count]
    return places


def masks(neighbours: Tensor) -> Tensor:
    """Which samples are a sample's neighbours, as float32 0 and 1 [N * N, L], for neighbours [L, N, k]."""
    layers, samples, _ = neighbours.shape
    places = neighbours + samples * torch.arange(samples)[:, None]
    marked = torch.zeros(samples * samples, layers)
    marked[places.flatten(1), torch.arange(layers)[:, None]] = 1
    return marked


def shared(masks_of: Tensor, neighbours: Tensor) -> Tensor:
    """How many of each sample's neighbours [Ly, N, k] are marked in `masks_of` [N * N, Lx]: float32 [Ly, N, Lx].

    It is the product of the masks of both sides, computed only at the k ones in each row of `neighbours`.
    """
    layers, samples, count = neighbours.shape
    places = (neighbours + samples * torch.arange(samples)[:, None]).reshape(layers * samples, count)
    return F.embedding_bag(places, masks_of, mode="sum").reshape(layers, samples, -1)


Counts = Callable[[Tensor], Tensor]


class OverNeighbours(NamedTuple):
    """A metric that is a mean over samples, computed from the neighbours of both sides alone.

    counting: of the neighbours of x [Lx, N, k], the function from those of y [Ly, N, k] to counts float32
        [Ly, N, Lx]. most: the largest possible count, for k.
    """

    counting: Callable[[Tensor], Counts]
    most: Callable[[int], int]


def _mutual(of_x: Tensor) -> Counts:
    marked = masks(of_x)
    return lambda of_y: shared(marked, of_y)


def _cycle(of_x: Tensor) -> Counts:
    marked = masks(of_x)

    def count(of_y: Tensor) -> Tensor:
        layers, samples, neighbours = of_y.shape
        # Whether a sample is marked in the rows of its y-neighbours.
        places = (of_y * samples + torch.arange(samples)[:, None]).reshape(layers * samples, neighbours)
        return F.embedding_bag(places, marked, mode="max").reshape(layers, samples, -1)

    return count


def _common_subsequence(of_x: Tensor) -> Counts:
    layers, samples, neighbours = of_x.shape
    marked = masks(of_x)
    rows = samples * torch.arange(samples)[:, None]
    # The rank of each sample among a sample's x-neighbours, from 1; k + 1 for those that are none.
    ranks = torch.full((samples * samples, layers), neighbours + 1, dtype=torch.int16)
    each = torch.arange(1, neighbours + 1, dtype=torch.int16).repeat(samples)
    ranks[(of_x + rows).flatten(1), torch.arange(layers)[:, None]] = each
    upto = torch.arange(neighbours + 1, dtype=torch.int16)

    def count(of_y: Tensor) -> Tensor:
        counts = shared(marked, of_y)
        for layer, own in zip(of_y + rows, counts, strict=True):
            # One or no common neighbour is a subsequence as it is; by chance, few samples have more.
            sample, other = (own > 1).nonzero(as_tuple=True)
            # lengths[:, r]: the longest common subsequence of the y-neighbours so far and the first r x-neighbours.
            lengths = torch.zeros(len(sample), neighbours + 1, dtype=torch.int16)
            for rank in ranks[layer[sample], other[:, None]].T[..., None]:
                longer = lengths.gather(1, rank.long() - 1) + 1
                lengths = torch.where(upto >= rank, torch.maximum(lengths, longer), lengths)
            own[sample, other] = lengths[:, -1].float()
        return counts

    return count


OVER_NEIGHBOURS: dict[MetricName, OverNeighbours] = {
    "mutual_knn": OverNeighbours(_mutual, lambda count: count),
    "cycle_knn": OverNeighbours(_cycle, lambda count: 1),
    "lcs_knn": OverNeighbours(_common_subsequence, lambda count: count),
}


def by_sample(metric: MetricName, of_x: Tensor, of_y: Tensor) -> Tensor:
    """The values of a metric of `OVER_NEIGHBOURS` per sample, [Lx, Ly, N], for neighbours [Lx, N, k] and [Ly, N, k]."""
    own = OVER_NEIGHBOURS[metric]
    return own.counting(of_x)(of_y).permute(2, 0, 1) / own.most(of_x.shape[2])


def mutual_knn(x: Tensor, y: Tensor, count: int) -> Tensor:
    """The mean share of common neighbours, [Lx, Ly]. Raises UserError as `nearest` does."""
    return by_sample("mutual_knn", nearest(x, count), nearest(y, count)).mean(-1)


def cycle_knn(x: Tensor, y: Tensor, count: int) -> Tensor:
    """The share of samples that are among the x-neighbours of their own y-neighbours, [Lx, Ly]."""
    return by_sample("cycle_knn", nearest(x, count), nearest(y, count)).mean(-1)


def lcs_knn(x: Tensor, y: Tensor, count: int) -> Tensor:
    """The mean length of the longest common subsequence of the ordered neighbours, divided by k, [Lx, Ly]."""
    return by_sample("lcs_knn", nearest(x, count), nearest(y, count)).mean(-1)


def _grams(features: Tensor) -> Tensor:
    features = normalised(features).double()
    return features @ features.mT


def cka(x: Tensor, y: Tensor, count: int = 0) -> Tensor:
    """Linear centred kernel alignment of the normalised features, [Lx, Ly] (Kornblith et al. 2019).

    `count` is not used. A layer with equal features of all samples has nan.
    """
    of_x, of_y = (_centred(_grams(one)).flatten(1) for one in (x, y))
    own_x, own_y = (_told_apart(one.norm(dim=1), x.shape[1] * ROUNDING) for one in (of_x, of_y))
    similarity: Tensor = (of_x @ of_y.T / own_x[:, None] / own_y).float()
    return similarity


def _told_apart(own: Tensor, least: float) -> Tensor:
    """The values [L], with nan for those that are not above rounding, where the samples of a layer are all equal."""
    return torch.where(own > least, own, torch.nan)


def _centred(grams: Tensor) -> Tensor:
    return grams - grams.mean(1, keepdim=True) - grams.mean(2, keepdim=True) + grams.mean((1, 2), keepdim=True)


def unbiased_cka(x: Tensor, y: Tensor, count: int = 0) -> Tensor:
    """CKA by the unbiased estimator of HSIC (Song et al. 2012, equation 5), [Lx, Ly].

    `count` is not used. A layer with equal features of all samples has nan, and so does all with under four samples.
    """
    of_x, of_y = (_without_diagonal(_grams(one)) for one in (x, y))
    both = _hsic(of_x, of_y)
    own_x, own_y = (_told_apart(_own(one), ROUNDING) for one in (of_x, of_y))
    return (both / (own_x[:, None] * own_y).sqrt()).float()


def _without_diagonal(grams: Tensor) -> Tensor:
    return grams * (1 - torch.eye(grams.shape[-1], dtype=grams.dtype))


def _hsic(of_x: Tensor, of_y: Tensor) -> Tensor:
    """The unbiased HSIC [Lx, Ly] of matrices [L, N, N] with zero diagonals, which need not be symmetric."""
    samples = of_x.shape[-1]
    columns_x, rows_y = of_x.sum(-2), of_y.sum(-1)
    traces = of_x.flatten(1) @ of_y.mT.flatten(1).T
    sums = columns_x.sum(-1)[:, None] * rows_y.sum(-1) / ((samples - 1) * (samples - 2))
    crossed = columns_x @ rows_y.T * 2 / (samples - 2)
    return (traces + sums - crossed) / (samples * (samples - 3))


def _own(grams: Tensor) -> Tensor:
    return torch.cat([_hsic(one[None], one[None])[0] for one in grams])


def cknna(x: Tensor, y: Tensor, count: int) -> Tensor:
    """CKA restricted to mutual neighbours, [Lx, Ly], with the unbiased estimator as in the released code.

    The Gram matrices are set to zero for pairs of samples that are not neighbours on both sides.
    """
    of_x, of_y = (_without_diagonal(_grams(one)) for one in (x, y))
    mark_x, mark_y = (_square(nearest(one, count)) for one in (x, y))
    own_x, own_y = (_own(grams * marks) for grams, marks in ((of_x, mark_x), (of_y, mark_y)))
    scores = torch.empty(len(x), len(y))
    for i in range(len(x)):
        for j in range(len(y)):
            mutual = mark_x[i] * mark_y[j]
            both = _hsic((of_x[i] * mutual)[None], (of_y[j] * mutual)[None])[0, 0]
            scores[i, j] = both / ((own_x[i] * own_y[j]).sqrt() + 1e-6)
    return scores


def _square(neighbours: Tensor) -> Tensor:
    samples = neighbours.shape[1]
    return masks(neighbours).T.reshape(-1, samples, samples).double()


METRICS: dict[MetricName, Callable[[Tensor, Tensor, int], Tensor]] = {
    "mutual_knn": mutual_knn,
    "cycle_knn": cycle_knn,
    "lcs_knn": lcs_knn,
    "cka": cka,
    "unbiased_cka": unbiased_cka,
    "cknna": cknna,
}

"""Metrics of the similarity of two sets of features of the same samples, for all pairs of layers at once.

Mutual k-NN is the metric of Huh et al. 2024 (arXiv:2405.07987). The others are those of its released code
(minyoungg/platonic-rep, metrics.py), under the same names. Neighbours and Gram matrices are computed once per layer.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from mllm_eval.alignment.protocol import MetricName
from mllm_eval.errors import UserError


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

    Raises UserError if there are not more than `count` samples.
    """
    samples = features.shape[1]
    if samples <= count:
        raise UserError(f"{samples} pairs have no {count} neighbours each; lower `neighbours`, or bring more pairs")
    neighbours = []
    for layer in normalised(features):
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
    # "Not greater" instead of "equal", so that rows with nan are sorted too.
    open_rows = (~(top.values[:, count - 1] > top.values[:, count])).nonzero()[:, 0]
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


def mutual_knn_by_sample(x: Tensor, y: Tensor, count: int) -> Tensor:
    """The share of common neighbours per sample, [Lx, Ly, N], for features [Lx, N, Dx] and [Ly, N, Dy]."""
    return shared(masks(nearest(x, count)), nearest(y, count)).permute(2, 0, 1) / count


def mutual_knn(x: Tensor, y: Tensor, count: int) -> Tensor:
    """The mean share of common neighbours, [Lx, Ly]. Raises UserError as `nearest` does."""
    return mutual_knn_by_sample(x, y, count).mean(-1)


def cycle_knn(x: Tensor, y: Tensor, count: int) -> Tensor:
    """The share of samples that are among the x-neighbours of their own y-neighbours, [Lx, Ly]."""
    of_x, of_y = nearest(x, count), nearest(y, count)
    own = torch.arange(of_x.shape[1])[:, None, None]
    return torch.stack([torch.stack([(a[b] == own).flatten(1).any(1).float().mean() for b in of_y]) for a in of_x])


def lcs_knn(x: Tensor, y: Tensor, count: int) -> Tensor:
    """The mean length of the longest common subsequence of the ordered neighbours, divided by k, [Lx, Ly]."""
    of_x, of_y = nearest(x, count), nearest(y, count)
    scores = torch.empty(len(of_x), len(of_y))
    for at, a in enumerate(of_x):
        # The usual dynamic programme over (i, j), for all layers of y and all samples at once.
        same = (a[None, :, :, None] == of_y[:, :, None, :]).long()
        lengths = torch.zeros(*same.shape[:2], count + 1, count + 1, dtype=torch.long)
        for i in range(count):
            for j in range(count):
                longer = torch.maximum(lengths[..., i, j + 1], lengths[..., i + 1, j])
                lengths[..., i + 1, j + 1] = torch.where(same[..., i, j] > 0, lengths[..., i, j] + 1, longer)
        scores[at] = lengths[..., -1, -1].float().mean(1) / count
    return scores


def _grams(features: Tensor) -> Tensor:
    features = normalised(features).double()
    return features @ features.mT


def cka(x: Tensor, y: Tensor, count: int = 0) -> Tensor:
    """Linear centred kernel alignment of the normalised features, [Lx, Ly] (Kornblith et al. 2019).

    `count` is not used.
    """
    of_x, of_y = (_centred(_grams(one)).flatten(1) for one in (x, y))
    similarity: Tensor = (of_x @ of_y.T / of_x.norm(dim=1)[:, None] / of_y.norm(dim=1)).float()
    return similarity


def _centred(grams: Tensor) -> Tensor:
    return grams - grams.mean(1, keepdim=True) - grams.mean(2, keepdim=True) + grams.mean((1, 2), keepdim=True)


def unbiased_cka(x: Tensor, y: Tensor, count: int = 0) -> Tensor:
    """CKA by the unbiased estimator of HSIC (Song et al. 2012, equation 5), [Lx, Ly]. `count` is not used."""
    of_x, of_y = (_without_diagonal(_grams(one)) for one in (x, y))
    both, own_x, own_y = _hsic(of_x, of_y), _own(of_x), _own(of_y)
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

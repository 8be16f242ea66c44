"""How a benchmark's value is computed from its samples, in a form that can be resampled.

A value is a weighted sum of ratios of sums. Resampling is therefore a matrix product: the weights of the drawn
clusters times each cluster's numerators and denominators.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_matrix  # type: ignore[import-untyped,unused-ignore]
from scipy.sparse.csgraph import connected_components  # type: ignore[import-untyped,unused-ignore]

from mllm_eval.errors import UserError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Estimator:
    """The formula of one value.

    In every stratum the term is ``sample * (mean of the samples' scores) + group * (share of groups whose
    samples are all right)``. The terms of the strata are then averaged or summed. With ``strata="pooled"`` there is
    one stratum. Samples without a stratum are left out unless the strata are pooled.

    =====================================  ======  =====  ========
    value                                  sample  group  strata
    =====================================  ======  =====  ========
    plain accuracy in per cent             100     0      pooled
    circular or pair accuracy              0       100    pooled
    mean of two sources' accuracies        100     0      mean
    MME: sum over tasks of acc + acc+      100     100    sum
    =====================================  ======  =====  ========
    """

    sample: float = 100.0
    group: float = 0.0
    strata: Literal["pooled", "mean", "sum"] = "pooled"

    @classmethod
    def parse(cls, data: Mapping[str, Any], where: str) -> Estimator:
        """Read a mapping of these fields. where: start of error messages. Raises UserError for anything else."""
        known = {field.name for field in fields(cls)}
        for name in data:
            if name not in known:
                raise UserError(f"{where}: unknown estimator field '{name}'; known are {', '.join(sorted(known))}")
        if data.get("strata", "pooled") not in ("pooled", "mean", "sum"):
            raise UserError(f"{where}: estimator strata '{data['strata']}'; use pooled, mean or sum")
        try:
            sample, group = float(data.get("sample", 100.0)), float(data.get("group", 0.0))
        except (TypeError, ValueError):
            raise UserError(f"{where}: estimator weights must be numbers") from None
        if sample == group == 0:
            raise UserError(f"{where}: an estimator needs a weight for samples or for groups")
        return cls(sample, group, cast(Any, data.get("strata", "pooled")))


@dataclass(frozen=True, slots=True)
class Units:
    """One run's scores on one benchmark, summed per cluster, for C clusters and T terms.

    clusters [C]         names of the clusters, which are resampled as a whole
    numerator [C, T]     sum of the cluster's scores in each term
    denominator [C, T]   number of samples or groups in that sum
    weight [T]           the value is ``sum_t weight_t * numerator_t / denominator_t``
    layer [C]            clusters are drawn within their layer, so that a small stratum keeps its size
    """

    clusters: tuple[str, ...]
    numerator: Floats
    denominator: Floats
    weight: Floats
    layer: Ints

    @property
    def value(self) -> float:
        """The benchmark's value; nan if a term has no valid sample."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return float((self.weight * self.numerator.sum(0) / self.denominator.sum(0)).sum())

    def minus(self, other: Units) -> Units:
        """The units of the difference of two values. Raises ValueError if clusters or valid samples differ."""
        if self.clusters != other.clusters or not np.array_equal(self.denominator, other.denominator):
            raise ValueError("a difference needs the same valid samples on both sides")
        return replace(self, numerator=self.numerator - other.numerator)

    @property
    def influence(self) -> Floats:
        """[C] first-order effect of each cluster on the value (delta method); sums to 0."""
        with np.errstate(invalid="ignore", divide="ignore"):
            total = self.denominator.sum(0)
            ratio = self.numerator.sum(0) / total
            return np.asarray(((self.numerator - ratio * self.denominator) * self.weight / total).sum(1))

    @property
    def error(self) -> float:
        """Standard error of the value: root of the sum over layers of n times the variance of the influences."""
        influence, variance = self.influence, 0.0
        for layer in np.unique(self.layer):
            part = influence[self.layer == layer]
            if len(part) > 1:
                variance += len(part) * float(part.var(ddof=1))
        return float(np.sqrt(variance))

    @property
    def answered(self) -> npt.NDArray[np.bool_]:
        """[C] whether each cluster has a valid sample."""
        return np.asarray((self.denominator > 0).any(1))

    @property
    def freedom(self) -> int:
        """Degrees of freedom of `error`: clusters with a valid sample minus layers; 0 if `error` is unknown.

        It is unknown if a term has only one cluster: a single cluster shows no variation, and would add no variance to
        a sum over strata.
        """
        if (np.count_nonzero(self.denominator, axis=0) < 2).any():
            return 0
        return int(self.answered.sum()) - len(np.unique(self.layer[self.answered]))

    @property
    def still(self) -> bool:
        """Whether all clusters are the same, apart from rounding."""
        return self.error <= 1e-9 * float(np.abs(self.weight).sum())


def _codes(names: Sequence[str]) -> tuple[list[str], Ints]:
    distinct, codes = np.unique(np.asarray(names, dtype=object).astype(str), return_inverse=True)
    return [str(name) for name in distinct], codes.astype(np.int64)


def _layers(strata: Ints, owner: Ints, clusters: int) -> Ints:
    """[C] layer of each cluster. Clusters with samples in the same set of strata form a layer.

    A cluster that is alone with its set joins the layer that shares most of it, because a layer of one cluster
    never varies (collapsed strata, Cochran 1977, 5A.12).
    """
    touched = np.zeros((clusters, int(strata.max(initial=0)) + 1), dtype=bool)
    touched[owner, strata] = True
    sets, layer = np.unique(touched, axis=0, return_inverse=True)
    layer = layer.reshape(-1)
    shared = sets.astype(np.int64) @ sets.T.astype(np.int64)
    np.fill_diagonal(shared, 0)
    alone = np.flatnonzero((np.bincount(layer, minlength=len(sets)) == 1) & shared.any(1))
    joined = coo_matrix((np.ones(len(alone)), (alone, shared[alone].argmax(1))), shape=shared.shape)
    return np.asarray(connected_components(joined, directed=False)[1][layer], dtype=np.int64)


def summed(
    estimator: Estimator,
    score: npt.ArrayLike,
    cluster: Sequence[str],
    group: Sequence[str],
    stratum: Sequence[str | None],
) -> Units:
    """Sum the N samples of one benchmark per cluster. The order of the samples does not matter.

    score [N]: nan marks a failed sample, which counts in neither numerator nor denominator. If the value counts
    groups, its whole group is left out, because scoring rules leave out incomplete groups.
    cluster, group, stratum: N names each. If the value counts groups, clusters that share a group are merged, because
    they cannot be drawn separately.
    """
    scores = np.asarray(score, dtype=np.float64)
    keep = np.ones(len(scores), dtype=bool)
    if estimator.strata == "pooled":
        layer_of = np.zeros(len(scores), dtype=np.int64)
    else:
        keep = np.array([name not in (None, "") and name == name for name in stratum], dtype=bool)
        layer_of = _codes([str(name) for name in np.asarray(stratum, dtype=object)[keep]])[1]
    scores = scores[keep]
    names, owner = _codes(list(np.asarray(cluster, dtype=object)[keep]))
    # A group's name may be repeated in another stratum: MME has the same photo in several tasks.
    _, member = _codes(
        [f"{part}\0{name}" for part, name in zip(layer_of, np.asarray(group, dtype=object)[keep], strict=True)]
    )
    if estimator.group:
        edges = coo_matrix((np.ones(len(owner)), (owner, len(names) + member)), shape=(len(names) + len(owner),) * 2)
        joined = connected_components(edges, directed=False)[1][: len(names)]
        first = np.unique(joined, return_index=True)[1]
        owner = np.searchsorted(np.sort(first), first[np.unique(joined, return_inverse=True)[1]])[owner]
        names = [names[i] for i in np.sort(first)]
    strata = int(layer_of.max(initial=0)) + 1
    share = 1.0 / strata if estimator.strata == "mean" else 1.0
    parts: list[tuple[Floats, Floats]] = []
    weights: list[float] = []
    valid = ~np.isnan(scores)
    if estimator.group:
        valid &= ~np.isin(member, member[~valid])
    if estimator.sample:
        parts.append(_table(owner[valid], layer_of[valid], scores[valid], len(names), strata))
        weights += [estimator.sample * share] * strata
    if estimator.group:
        groups = int(member.max(initial=-1)) + 1
        right = np.full(groups, np.inf)
        np.minimum.at(right, member, np.where(valid, scores, -np.inf))
        at = np.unique(member, return_index=True)[1]
        ok = np.isfinite(right)
        parts.append(_table(owner[at][ok], layer_of[at][ok], right[ok], len(names), strata))
        weights += [estimator.group * share] * strata
    return Units(
        clusters=tuple(names),
        numerator=np.concatenate([part[0] for part in parts], axis=1),
        denominator=np.concatenate([part[1] for part in parts], axis=1),
        weight=np.asarray(weights),
        layer=_layers(layer_of, owner, len(names)),
    )


def _table(owner: Ints, column: Ints, score: Floats, rows: int, columns: int) -> tuple[Floats, Floats]:
    cell, size = owner * columns + column, rows * columns
    total = np.bincount(cell, weights=score, minlength=size).reshape(rows, columns)
    count = np.bincount(cell, minlength=size).reshape(rows, columns)
    return total.astype(np.float64), count.astype(np.float64)

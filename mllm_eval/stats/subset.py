"""Subsets of questions: which to choose, their precision, and whether they rank runs as the whole does."""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special  # type: ignore[import-untyped,unused-ignore]

from mllm_eval.stats.estimator import Units


def stratified(
    cluster: Sequence[str], stratum: Sequence[str | None], size: int, salt: str = ""
) -> npt.NDArray[np.bool_]:
    """[N] mask of about `size` samples to ask, in whole clusters.

    Every stratum gives the same share of its samples, as nearly as whole clusters allow, and at least two clusters
    if it has them, because one shows no variation between clusters.
    Clusters are taken in the order of a hash of their names. The choice thus does not depend on the machine, the order
    of the samples or the run, and a smaller subset is part of a larger one.
    """
    total = len(cluster)
    chosen = np.zeros(total, dtype=bool)
    if size >= total:
        return ~chosen
    names = [str(name or "") for name in stratum]
    for part in sorted(set(names)):
        members: dict[str, list[int]] = {}
        for index, (name, layer) in enumerate(zip(cluster, names, strict=True)):
            if layer == part:
                members.setdefault(str(name), []).append(index)
        quota, taken = size * sum(map(len, members.values())) / total, 0
        order = sorted(members, key=lambda name: hashlib.sha256(f"{salt}\0{name}".encode()).digest())
        for number, name in enumerate(order):
            # Stops when half of the next cluster would exceed the quota.
            if number >= 2 and taken + len(members[name]) / 2 > quota:
                break
            chosen[members[name]] = True
            taken += len(members[name])
    return chosen


def part_of_table(
    cluster: Sequence[str], stratum: Sequence[str | None], size: int, benchmark: str, benchmarks: int = 16
) -> npt.NDArray[np.bool_]:
    """[N] mask by `stratified` for one benchmark, if all `benchmarks` of a table have `size` questions together.

    Each benchmark gives the same number, because AVG weights them equally; a smaller one gives all. The mask does not
    depend on which other benchmarks are asked.
    """
    return stratified(cluster, stratum, max(1, size // benchmarks), salt=benchmark)


def implied_error(units: Units, share: float) -> float:
    """Standard error of the value on a random `share` (0 to 1) of the clusters, from that of the whole."""
    return units.error / math.sqrt(share) if share > 0 else math.inf


@dataclass(frozen=True, slots=True)
class RankAgreement:
    """How well a subset ranks runs: Spearman's rho and Kendall's tau-b with the values of the whole, the
    number of runs, and the largest difference between a run's two values."""

    spearman: float
    kendall: float
    runs: int
    apart: float


def agreement(whole: Sequence[float], part: Sequence[float]) -> RankAgreement:
    """Rank correlations of two lists with one value per run. nan with fewer than three runs, whose ranking is always
    fully right or wrong, or without variation."""
    a, b = np.asarray(whole, dtype=np.float64), np.asarray(part, dtype=np.float64)
    known = np.isfinite(a) & np.isfinite(b)
    a, b = a[known], b[known]
    apart = float(np.abs(a - b).max()) if len(a) else math.nan
    if len(a) < 3:
        return RankAgreement(math.nan, math.nan, len(a), apart)
    from scipy import stats  # type: ignore[import-untyped,unused-ignore]  # takes half a second to load

    with np.errstate(invalid="ignore", divide="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.ConstantInputWarning)
        rho, tau = stats.spearmanr(a, b).statistic, stats.kendalltau(a, b).statistic
    return RankAgreement(float(rho), float(tau), len(a), apart)


def clusters_needed(error: float, clusters: int, wanted: float, level: float = 0.95) -> int:
    """Number of clusters for an interval of plus or minus `wanted`, given that `clusters` clusters gave `error`."""
    reach = float(special.ndtri(0.5 + level / 2.0))
    return math.ceil(clusters * (reach * error / wanted) ** 2)

"""Probe results on disk: results/probes/<hash>/result.json, with per-image results in images.npz next to it."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from mllm_eval.catalog import Encoder
from mllm_eval.catalog.probe import load_protocol
from mllm_eval.config import Strict, short_hash, validate
from mllm_eval.errors import UserError
from mllm_eval.results.probes import Probe
from mllm_eval.storage import read_json, results_home

RESULT, IMAGES = "result.json", "images.npz"
SCALE = {"top1": 100.0, "miou": 100.0, "rmse": 1.0}
# The largest possible value of each metric; None where it is unbounded.
TOP = {"top1": 100.0, "miou": 100.0, "rmse": None}


class Reading(Strict):
    """The result for one set of layers.

    value, low, high: the metric and its 95 % confidence interval. chosen: selected hyperparameters.
    further: other metrics.
    """

    layers: list[int]
    value: float | None
    low: float | None
    high: float | None
    chosen: dict[str, Any] = Field(default_factory=dict)
    further: dict[str, float] = Field(default_factory=dict)


class Probed(Strict):
    """The result of a probe of an encoder.

    asked: the requested layers. selection: how heads were selected. beside: data pin of the runs that it belongs to.
    n: number of test images. n_failed: those among them without a result; `failed` names them with reasons.
    n_train: number of training images. n_left_out: training images that could not be used; `left_out` names them.
    seconds, cpu_seconds: wall-clock and CPU time.
    """

    encoder: str
    encoder_hash: str
    weights: str
    summary: str
    probe: str
    version: int
    protocol: str
    title: str
    column: str | None
    metric: Literal["top1", "miou", "rmse"]
    data: str
    data_hash: str
    beside: str
    asked: str
    default: bool
    rule: str
    selection: str
    n: int
    n_failed: int
    n_train: int
    n_left_out: int
    failed: dict[str, str]
    left_out: dict[str, str]
    readings: list[Reading]
    seconds: float
    cpu_seconds: float
    environment: dict[str, Any]

    @property
    def best(self) -> Reading:
        """The reading with the best value."""
        known = [one for one in self.readings if one.value is not None]
        sign = -1 if self.metric == "rmse" else 1
        return max(known or self.readings, key=lambda one: sign * (one.value or 0.0))

    @property
    def better(self) -> Literal["high", "low"]:
        """Whether high or low values of the metric are better."""
        return "low" if self.metric == "rmse" else "high"

    def how(self) -> str:
        """Return a description of the probe for a footnote."""
        failed = f", {self.n_failed:,} failed" if self.n_failed else ""
        left = f" ({self.n_left_out:,} left out)" if self.n_left_out else ""
        return (
            f"{self.probe}.v{self.version} ({self.protocol}) on {self.data}, {self.n_train:,} training images{left}"
            f"{failed}; {self.selection}; summary: {self.summary}"
        )


def encoder_key(encoder: Encoder) -> str:
    """Return 12 hex digits of a hash of the encoder's facts that affect a probe.

    Weights, layer and the way of making images square are not included.
    """
    facts = encoder.model_dump(
        mode="json", include={"family", "code", "patch", "cells", "width", "depth", "architecture", "summary"}
    )
    own = encoder.preprocessing
    return short_hash({**facts, "size": own.size, "mean": own.mean, "std": own.std})


def probes_home() -> Path:
    """Return the folder of all probe results."""
    return results_home() / "probes"


def read_probed(folder: Path) -> Probed:
    """Return the result in a folder. Raises UserError where it is missing or damaged."""
    path = folder / RESULT
    return validate(read_json(path), Probed, str(path))


def saved_probes() -> dict[Path, Probed]:
    """Return folder -> result of every readable probe, sorted by encoder and probe."""
    results = {}
    for path in sorted(probes_home().glob(f"*/{RESULT}")):
        try:
            results[path.parent] = read_probed(path.parent)
        except UserError:
            continue
    return dict(sorted(results.items(), key=lambda item: (item[1].encoder, item[1].probe, item[0].name)))


def probes_of(encoder: Encoder, weights: str, data: str) -> dict[Path, Probed]:
    """Return folder -> result of an encoder with these weights, by its protocols' defaults and present versions.

    Only results that belong to runs with the data pin `data` are included.
    """
    key = encoder_key(encoder)
    return {
        folder: one
        for folder, one in _saved(tuple(_stamps())).items()
        if (one.encoder_hash, one.weights, one.beside, one.default) == (key, weights, data, True) and _current(one)
    }


def columns_of(results: Iterable[Probed]) -> dict[str, Probe]:
    """Return table column -> its value, from results of one encoder."""
    columns = {}
    for one in results:
        reading = one.readings[0]
        if one.column and reading.value is not None:
            limits = None if reading.low is None or reading.high is None else (reading.low, reading.high)
            columns[one.column] = Probe(value=reading.value, n=one.n - one.n_failed, how=one.how(), interval=limits)
    return columns


def _current(one: Probed) -> bool:
    """Whether a result has its protocol's present version; also true if the protocol's yaml is missing."""
    try:
        return load_protocol(one.probe).version == one.version
    except UserError:
        return True


def _stamps() -> list[tuple[str, int]]:
    return [(str(path), path.stat().st_mtime_ns) for path in sorted(probes_home().glob(f"*/{RESULT}"))]


@cache
def _saved(stamps: tuple[tuple[str, int], ...]) -> dict[Path, Probed]:
    # `stamps` only serves as the cache's key.
    return saved_probes()

"""Results of probes on disk: results/probes/<hash>/result.json, and beside it what each image adds (images.npz)."""

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
# The most that a value can be, where that is known.
TOP = {"top1": 100.0, "miou": 100.0, "rmse": None}


class Reading(Strict):
    """What was read of some layers: the value with its 95 % interval, what was chosen, and further numbers."""

    layers: list[int]
    value: float | None
    low: float | None
    high: float | None
    chosen: dict[str, Any] = Field(default_factory=dict)
    further: dict[str, float] = Field(default_factory=dict)


class Probed(Strict):
    """A probe of an encoder. `asked` is what was asked for of its layers; `selection` says how a head was chosen.

    n counts the test images, n_failed those among them without a number, which `failed` names; `left_out` names
    training images that could not be used.
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
        """The reading with the best value; the only one where one was asked for."""
        known = [one for one in self.readings if one.value is not None]
        sign = -1 if self.metric == "rmse" else 1
        return max(known or self.readings, key=lambda one: sign * (one.value or 0.0))

    @property
    def better(self) -> Literal["high", "low"]:
        """Which end of the metric is the better one."""
        return "low" if self.metric == "rmse" else "high"

    def how(self) -> str:
        """In words, for a footnote."""
        failed = f", {self.n_failed:,} failed" if self.n_failed else ""
        left = f" ({self.n_left_out:,} left out)" if self.n_left_out else ""
        return (
            f"{self.probe}.v{self.version} ({self.protocol}) on {self.data}, {self.n_train:,} training images{left}"
            f"{failed}; {self.selection}; summary: {self.summary}"
        )


def encoder_key(encoder: Encoder) -> str:
    """12 hex digits of what of an encoder decides what a probe reads; weights, layer and way of squaring apart."""
    facts = encoder.model_dump(
        mode="json", include={"family", "code", "patch", "cells", "width", "depth", "architecture", "summary"}
    )
    own = encoder.preprocessing
    return short_hash({**facts, "size": own.size, "mean": own.mean, "std": own.std})


def probes_home() -> Path:
    """The folder of all results of probes."""
    return results_home() / "probes"


def read_probed(folder: Path) -> Probed:
    """The result in a folder. Raises UserError where it is missing or damaged."""
    path = folder / RESULT
    return validate(read_json(path), Probed, str(path))


def saved_probes() -> dict[Path, Probed]:
    """Folder -> result of every readable probe, by encoder and probe."""
    results = {}
    for path in sorted(probes_home().glob(f"*/{RESULT}")):
        try:
            results[path.parent] = read_probed(path.parent)
        except UserError:
            continue
    return dict(sorted(results.items(), key=lambda item: (item[1].encoder, item[1].probe, item[0].name)))


def probes_of(encoder: Encoder, weights: str, data: str) -> dict[Path, Probed]:
    """Folder -> this project's own results for an encoder, as their protocols ask now, on data that stand beside those
    of runs (`data`); those of another version of a protocol are not among them."""
    key = encoder_key(encoder)
    return {
        folder: one
        for folder, one in _saved(tuple(_stamps())).items()
        if (one.encoder_hash, one.weights, one.beside, one.default) == (key, weights, data, True) and _current(one)
    }


def columns_of(results: Iterable[Probed]) -> dict[str, Probe]:
    """Column of classic vision -> the result that fills it, of some results of one encoder."""
    columns = {}
    for one in results:
        reading = one.readings[0]
        if one.column and reading.value is not None:
            limits = None if reading.low is None or reading.high is None else (reading.low, reading.high)
            columns[one.column] = Probe(value=reading.value, n=one.n - one.n_failed, how=one.how(), interval=limits)
    return columns


def _current(one: Probed) -> bool:
    """Whether a result is of the version that its protocol has now; one whose yaml is not here is taken as it is."""
    try:
        return load_protocol(one.probe).version == one.version
    except UserError:
        return True


def _stamps() -> list[tuple[str, int]]:
    return [(str(path), path.stat().st_mtime_ns) for path in sorted(probes_home().glob(f"*/{RESULT}"))]


@cache
def _saved(stamps: tuple[tuple[str, int], ...]) -> dict[Path, Probed]:
    # `stamps` is only a key.
    return saved_probes()

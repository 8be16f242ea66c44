"""Probe results on disk: results/probes/<hash>/result.json, with per-image results in images.npz next to it.

If images could not be used, unusable.json is there, too: an object of `failed` (test) and `left_out` (training), each
an object of image id -> reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field

from mllm_eval.catalog import Encoder
from mllm_eval.catalog.layers import DEFAULT_LAYERS, Layers, layers_name
from mllm_eval.catalog.probe import load_protocol
from mllm_eval.config import Strict, short_hash, validate
from mllm_eval.errors import UserError
from mllm_eval.results.probes import Probe
from mllm_eval.storage import SHIPPED, read_json, results_home

RESULT, IMAGES, UNUSABLE = "result.json", "images.npz", "unusable.json"
# How many failed images, and how many left out, the result itself names.
NAMED = 20
SCALE = {"top1": 100.0, "miou": 100.0, "rmse": 1.0}
# The largest possible value of each metric; None where it is unbounded.
TOP = {"top1": 100.0, "miou": 100.0, "rmse": None}


class LayerReading(Strict):
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

    asked: the layers by name, `default` for the protocol's, in whatever words they were asked for. selection: how heads
    were selected. beside: data pin of the runs that it belongs to.
    n: number of test images. n_failed: those among them without a result; `failed` names the first `NAMED` of them.
    n_train: number of images that the heads were trained on, or that vote; without those held out, never drawn, or
    unusable. n_left_out: images to train or select on that could not be used; `left_out` names the first
    `NAMED`. All of both are in the file `UNUSABLE` beside the result.
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
    readings: list[LayerReading]
    seconds: float
    cpu_seconds: float
    environment: dict[str, Any]

    @property
    def best(self) -> LayerReading:
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
    results = {folder: _named(one) for folder, one in results.items()}
    return dict(sorted(results.items(), key=lambda item: (item[1].encoder, item[1].probe, item[0].name)))


def probes_of(encoder: Encoder, weights: str, data: str) -> dict[Path, Probed]:
    """Return folder -> result of an encoder with these weights, by its protocols' defaults and present versions.

    Only results that belong to runs with the data pin `data` are included.
    """
    key = encoder_key(encoder)
    own = {
        folder: _named(one, encoder.depth)
        for folder, one in _saved(tuple(_stamps())).items()
        if (one.encoder_hash, one.weights, one.beside) == (key, weights, data) and _current(one)
    }
    return {folder: one for folder, one in own.items() if one.default}


def columns_of(results: Iterable[Probed]) -> dict[str, Probe]:
    """Return table column -> its value, from results of one encoder.

    Of several results that fill a column a shipped protocol's comes first, then the one with the fewest failed images,
    then the first. `how` names the others with their values.
    """
    filling: dict[str, list[Probed]] = {}
    for one in results:
        if one.column and one.readings[0].value is not None:
            filling.setdefault(one.column, []).append(one)
    return {column: _filled(sorted(every, key=_precedence)) for column, every in filling.items()}


def _precedence(one: Probed) -> tuple[bool, int]:
    return not (SHIPPED / "configs" / "probes" / f"{one.probe}.yaml").is_file(), one.n_failed


def _filled(every: Sequence[Probed]) -> Probe:
    first, others = every[0], every[1:]
    reading = first.readings[0]
    limits = None if reading.low is None or reading.high is None else (reading.low, reading.high)
    also = ", ".join(
        f"{one.readings[0].value:.4g} ({one.probe}.v{one.version} ({one.protocol}) on {one.data})" for one in others
    )
    how = first.how() + (f"; not shown: {also}" if also else "")
    return Probe(value=float(reading.value or 0), n=first.n - first.n_failed, how=how, interval=limits)


def _current(one: Probed) -> bool:
    """Whether a result was measured by its protocol as it is now; also true if the protocol's yaml is missing.

    Of a data pin that the yaml no longer has, only the version is compared.
    """
    try:
        protocol = load_protocol(one.probe)
    except UserError:
        return True
    if protocol.version != one.version:
        return False
    try:
        return protocol.on(one.data).model_copy(update={"selection": one.rule}).hash == one.protocol
    except UserError:
        return True


def _named(one: Probed, depth: int | None = None) -> Probed:
    """A stored result with the column and the name of its layers that its protocol gives them now.

    Older results name the layers in the words of whoever asked first, and took over the column of a base. `depth` is
    the encoder's number of blocks; without it, numbers of blocks keep their words.
    """
    try:
        protocol = load_protocol(one.probe)
    except UserError:
        return one
    if one.data in protocol.data:
        protocol = protocol.on(one.data)
    if depth is None and one.asked in (*get_args(Layers), "all"):
        # Each of these reads the last block.
        depth = max(number for reading in one.readings for number in reading.layers)
    own: dict[str, Any] = {"column": protocol.column}
    if depth is not None and one.asked != DEFAULT_LAYERS:
        asked = layers_name([reading.layers for reading in one.readings], protocol.layers, depth)
        own |= {"asked": asked, "default": asked == DEFAULT_LAYERS and one.rule == protocol.usual_selection}
    return one.model_copy(update=own)


def _stamps() -> list[tuple[str, int]]:
    return [(str(path), path.stat().st_mtime_ns) for path in sorted(probes_home().glob(f"*/{RESULT}"))]


@cache
def _saved(stamps: tuple[tuple[str, int], ...]) -> dict[Path, Probed]:
    # `stamps` only serves as the cache's key.
    return saved_probes()

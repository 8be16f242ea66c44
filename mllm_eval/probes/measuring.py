"""Runs one probe on one encoder: its hash, its folder, and its result, which is written completely or not at all."""

from __future__ import annotations

import hashlib
import io
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mllm_eval.adapters import load_encoder_model
from mllm_eval.adapters.base import EncoderModel
from mllm_eval.catalog import Encoder
from mllm_eval.catalog.layers import DEFAULT_LAYERS, chosen_layers, layers_name
from mllm_eval.catalog.probe import (
    DepthProbe,
    ImageProbe,
    LinearProbe,
    LogisticProbe,
    NeighbourProbe,
    Protocol,
    SegmentationProbe,
)
from mllm_eval.config import short_hash
from mllm_eval.distributed import decided, place_in_group
from mllm_eval.environment import describe, device, repeatable
from mllm_eval.errors import UserError
from mllm_eval.probes.examples import Examples
from mllm_eval.probes.keeping import StateFile
from mllm_eval.probes.layouts import read_examples
from mllm_eval.probes.outcome import Group, Outcome
from mllm_eval.progress import Progress, unheard
from mllm_eval.results.probed import (
    IMAGES,
    NAMED,
    RESULT,
    SCALE,
    TOP,
    UNUSABLE,
    LayerReading,
    Probed,
    encoder_key,
    probes_home,
    read_probed,
)
from mllm_eval.stats import seed_of
from mllm_eval.stats.imageratios import ImageSums, image_draws, image_interval
from mllm_eval.storage import write_atomic, write_json

# The file in a result's folder from which a measurement that was stopped continues.
STATE = "going-on.safetensors"


@dataclass(frozen=True)
class Measurement:
    """A probe of an encoder on the data in `place`. `asked` is the choice of layers, or None for the protocol's."""

    encoder: Encoder
    protocol: Protocol
    data: str
    place: Path
    asked: str | None

    @cached_property
    def examples(self) -> tuple[Examples, Examples]:
        """The training and the test examples. Raises UserError as `read_examples` does."""
        return read_examples(self.protocol.pin(self.data), self.place)

    @cached_property
    def groups(self) -> list[tuple[int, ...]]:
        """The groups of layers to read."""
        return chosen_layers(self.asked or self.protocol.layers, self.encoder.depth, f"encoder {self.encoder.name}")

    @cached_property
    def weights(self) -> str:
        """The digest of the encoder's weights."""
        return self.encoder.weights.digest()

    @cached_property
    def data_hash(self) -> str:
        """12 hex digits of the ids, labels and file sizes of all examples, in order."""
        digest = hashlib.sha256()
        for examples in self.examples:
            for one in examples:
                for path in (one.picture.path, one.map_path):
                    size = Path(path).stat().st_size if path else 0
                    digest.update(f"{one.id} {one.label} {size}\n".encode())
        return digest.hexdigest()[:12]

    @cached_property
    def hash(self) -> str:
        """12 hex digits of everything that can change the result."""
        return short_hash(
            {
                "encoder": encoder_key(self.encoder),
                "weights": self.weights,
                "protocol": self.protocol.identity(),
                "groups": self.groups,
                "data": self.data_hash,
                "device": device().partition(":")[0],
            }
        )

    @property
    def folder(self) -> Path:
        """The folder of the result."""
        return probes_home() / self.hash

    @cached_property
    def labels(self) -> dict[str, Any]:
        """The fields of the result that name it and change no number, so that they are not part of the hash."""
        asked = layers_name(self.groups, self.protocol.layers, self.encoder.depth)
        return {
            "encoder": self.encoder.name,
            "title": self.protocol.title,
            "column": self.protocol.column,
            "data": self.data,
            "beside": self.protocol.pin(self.data).beside,
            "asked": asked,
            "default": asked == DEFAULT_LAYERS and self.protocol.selection == self.protocol.usual_selection,
        }

    def done(self) -> Probed | None:
        """The result, or None if it is missing or incomplete.

        It may have been measured for a job with other labels; it is returned with this job's.
        """
        if not (self.folder / RESULT).is_file() or not (self.folder / IMAGES).is_file():
            return None
        return read_probed(self.folder).model_copy(update=self.labels)


def measure(job: Measurement, progress: Progress = unheard) -> Probed:
    """The result of a job, measured if it does not exist. In a process group, all processes must call it.

    A measurement that was stopped continues where it was, with the same result. Raises UserError for unusable data.
    """
    # Rank 0 decides for all: another session may finish the job while this one checks.
    if (known := decided(job.done)) is not None:
        return known
    repeatable(job.protocol.seed)
    began, spent = time.perf_counter(), time.process_time()
    measured = _run(job, StateFile(job.folder / STATE), progress)
    return _result(job, measured, time.perf_counter() - began, time.process_time() - spent)


def _model(job: Measurement, encoder: Encoder) -> tuple[EncoderModel, str]:
    import torch

    place = device()
    dtype = job.protocol.dtype if place.startswith("cuda") else "float32"
    return load_encoder_model(encoder, getattr(torch, dtype)).to(place), dtype


def _run(job: Measurement, kept: StateFile, progress: Progress) -> Outcome:
    protocol, (train, test) = job.protocol, job.examples
    if isinstance(protocol, ImageProbe):
        from mllm_eval.probes.views import probed

        model, dtype = _model(job, probed(job.encoder, protocol))
        if isinstance(protocol, LinearProbe):
            from mllm_eval.probes.linear import measure as linear

            return linear(protocol, model, train, test, job.groups, kept, progress)
        from mllm_eval.probes.stored import Summaries

        layers = sorted({layer for group in job.groups for layer in group})

        def stored(examples: Examples) -> Summaries:
            return Summaries(model, job.weights, dtype, layers, examples, progress)

        if isinstance(protocol, NeighbourProbe):
            from mllm_eval.probes.neighbours import measure as neighbours

            return neighbours(protocol, stored, train, test, job.groups)
        assert isinstance(protocol, LogisticProbe)
        from mllm_eval.probes.logistic import measure as logistic

        return logistic(protocol, stored, train, test, job.groups)
    model, _ = _model(job, job.encoder.model_copy(update={"norm": protocol.norm}))
    assert isinstance(protocol, SegmentationProbe | DepthProbe)
    from mllm_eval.probes.dense import measure as dense

    return dense(protocol, model, train, test, job.groups, kept, progress)


def sums_of(group: Group, metric: str) -> ImageSums:
    """The contribution of each image to a group's value."""
    if group.scores is not None:
        return ImageSums.of_scores(group.scores.astype(np.float64), SCALE[metric], TOP[metric])
    assert group.inside is not None and group.union is not None
    return ImageSums(SCALE[metric] * group.inside.astype(np.float64), group.union.astype(np.float64))


def _result(job: Measurement, measured: Outcome, seconds: float, cpu_seconds: float) -> Probed:
    protocol = job.protocol
    sums = [sums_of(group, protocol.metric) for group in measured.groups]
    readings = []
    for group, own in zip(measured.groups, sums, strict=True):
        limits = image_interval(own, image_draws([own], seed=seed_of(protocol.name))[0])
        value, low, high = (None if math.isnan(one) else one for one in (limits.value, limits.low, limits.high))
        readings.append(LayerReading(layers=list(group.layers), value=value, low=low, high=high, chosen=group.chosen,
                                further=group.further))  # fmt: skip
    result = Probed(
        **job.labels,
        encoder_hash=encoder_key(job.encoder),
        weights=job.weights,
        summary=job.encoder.summary,
        probe=protocol.name,
        version=protocol.version,
        protocol=protocol.hash,
        metric=protocol.metric,
        data_hash=job.data_hash,
        rule=protocol.selection,
        selection=measured.selection,
        n=measured.n,
        n_failed=len(measured.broken),
        n_train=measured.n_train,
        n_left_out=len(measured.left_out),
        failed=_first(measured.broken),
        left_out=_first(measured.left_out),
        readings=readings,
        seconds=round(seconds, 3),
        cpu_seconds=round(cpu_seconds, 3),
        environment=describe(),
    )
    if place_in_group()[0] == 0:
        write_atomic(job.folder / IMAGES, _packed(measured.groups))
        # One of an earlier measurement, whose other files were damaged, may be there.
        (job.folder / UNUSABLE).unlink(missing_ok=True)
        if measured.broken or measured.left_out:
            write_json(job.folder / UNUSABLE, {"failed": measured.broken, "left_out": measured.left_out})
        write_json(job.folder / RESULT, result.model_dump(mode="json"))
        StateFile(job.folder / STATE).remove()
    return result


def _first(named: dict[str, str]) -> dict[str, str]:
    return dict(list(named.items())[:NAMED])


def _packed(groups: Sequence[Group]) -> bytes:
    arrays = {}
    for number, group in enumerate(groups):
        for name in ("scores", "inside", "union"):
            if (held := getattr(group, name)) is not None:
                arrays[f"{name}.{number}"] = held
    into = io.BytesIO()
    np.savez_compressed(into, **arrays)
    return into.getvalue()


def selected(protocol: Protocol, rule: str | None) -> Protocol:
    """The protocol with another rule to choose a head. Raises UserError for an unknown rule, or with a single head."""
    if rule is None or rule == protocol.selection:
        return protocol
    if protocol.selection == "none":
        raise UserError(f"probe {protocol.name} has one head: there is nothing to choose by {rule!r}")
    known = ("train_holdout", "val")
    if rule not in known:
        raise UserError(f"no way to choose a head {rule!r}; known: {', '.join(known)}")
    return protocol.model_copy(update={"selection": rule})

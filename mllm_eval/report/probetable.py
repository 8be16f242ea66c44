"""The table of probes: values with intervals, tests between encoders, and the best layer for each task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from mllm_eval.catalog.layers import DEFAULT_LAYERS
from mllm_eval.errors import UserError
from mllm_eval.report.table import Column, Row, Table, printed, score_cell, with_best
from mllm_eval.report.words import ALPHA, p_words
from mllm_eval.results.probed import IMAGES, SCALE, TOP, LayerReading, Probed, read_probed
from mllm_eval.stats import Interval, holm, seed_of
from mllm_eval.stats.imageratios import ImageSums, image_pair

if TYPE_CHECKING:
    from mllm_eval.results import RunRecord

DECIMALS = {"top1": 1, "miou": 1, "rmse": 3}
KINDS = {"top1": "classification", "miou": "segmentation", "rmse": "depth"}
UNITS = {"top1": "top-1 accuracy in %", "miou": "mean IoU in %", "rmse": "RMSE in m"}


@dataclass(frozen=True, slots=True)
class ProbeDifference:
    """The difference a - b of two encoders on the same test images, in the metric's unit, tested by permutation.

    `holm` is p after Holm's correction; `better` is `high` or `low`.
    """

    probe: str
    title: str
    a: str
    b: str
    difference: Interval
    p: float
    holm: float
    better: str
    decimals: int

    def words(self) -> str:
        """A sentence that says which encoder is better and by how much, or that the test does not separate them."""
        low, high = (printed(one, self.decimals) for one in (self.difference.low, self.difference.high))
        gap = f"{printed(self.difference.value, self.decimals)} [{low}, {high}], {p_words(self.holm)}"
        if not self.holm < ALPHA:
            return f"{self.title}: {self.a} and {self.b} are not told apart ({gap})."
        first = (self.difference.value > 0) == (self.better == "high")
        return f"{self.title}: {self.a if first else self.b} is better than {self.b if first else self.a} ({gap})."


def read_sums(folder: Path) -> list[ImageSums]:
    """What each test image contributes to each reading of a stored probe, in the order of the readings.

    Raises UserError for a damaged file.
    """
    path = folder / IMAGES
    try:
        with np.load(path) as held:
            arrays = {name: held[name].astype(np.float64) for name in held.files}
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path}: can't be read ({error}); delete {folder} and probe again") from None
    metric = read_probed(folder).metric
    columns_shown = []
    for number in range(sum(name.startswith(("scores.", "inside.")) for name in arrays)):
        if f"scores.{number}" in arrays:
            columns_shown.append(ImageSums.of_scores(arrays[f"scores.{number}"], SCALE[metric], TOP[metric]))
        else:
            columns_shown.append(ImageSums(SCALE[metric] * arrays[f"inside.{number}"], arrays[f"union.{number}"]))
    return columns_shown


def probe_table(results: Mapping[Path, Probed]) -> Table:
    """The table of probes (folder -> result): one row per encoder, or one row per layer for a sweep over layers.

    Each cell has its interval. Each pair of encoders is compared on the same images by a permutation test, corrected
    for all tests of the table (Holm).
    """
    every = list(results.values())
    columns = tuple(
        Column(one.probe, one.title, decimals=DECIMALS[one.metric], better=one.better)
        for one in {one.probe: one for one in every}.values()
    )
    rows: dict[tuple[str, str], Row] = {}
    marks = _marks(results)
    for folder, one in results.items():
        for reading in one.readings:
            label = _label(one, reading, marks[folder])
            row = rows.get(label, Row(" ".join(label).strip(), "measured", {}, group=label[0] if label[1] else ""))
            column = next(column for column in columns if column.key == one.probe)
            cell = score_cell(reading.value, column, limits=_limits(reading))
            note = f"{column.title}: {one.how()}; {_chosen(reading)}".rstrip("; ")
            rows[label] = replace(row, cells={**row.cells, one.probe: cell}, notes=(*row.notes, note))
    grouped = any(row.group for row in rows.values())
    shown = with_best(list(rows.values()), columns, "group" if grouped else "table")
    tested = differences(results)
    notes = [
        f"{column.title}: {UNITS[next(one.metric for one in every if one.probe == column.key)]}." for column in columns
    ]
    notes.append("[low, high]: 95 % interval, bootstrap over test images; of mean IoU over the images' counts.")
    if tested:
        notes.append(
            f"Tests: results exchanged image by image (permutation), corrected for {len(tested)} tests (Holm)."
        )
    said = (
        [one.words() for one in tested]
        + [text for one in every if len(one.readings) > 1 for text in _sweep_words(one)]
        + _choice_words(every)
    )
    return Table("probes", "Probes of frozen encoders", columns, tuple(shown), tuple(notes), tuple(said))


def _label(one: Probed, reading: LayerReading, mark: str) -> tuple[str, str]:
    extra = [mark] if mark else []
    if len(one.readings) > 1:
        extra.append(f"block {', '.join(map(str, reading.layers))}")
    elif one.asked != DEFAULT_LAYERS:
        extra.append(f"layers {one.asked}")
    if one.rule == "val":
        extra.append("chosen on val")
    return one.encoder, f"({'; '.join(extra)})" if extra else ""


def _blocks(one: Probed) -> list[list[int]]:
    return [reading.layers for reading in one.readings]


def _marks(results: Mapping[Path, Probed]) -> dict[Path, str]:
    """What tells a result from others of the same encoder, probe and layers; empty where there is no other."""
    marks = dict.fromkeys(results, "")
    alike: dict[tuple[Any, ...], list[Path]] = {}
    for folder, one in results.items():
        alike.setdefault((one.encoder, one.probe, one.asked, one.rule), []).append(folder)
    for folders in (some for some in alike.values() if len(some) > 1):
        of = {
            folder: (f"on {one.data}", f"v{one.version}, {one.protocol}", f"weights {one.weights[:12]}", folder.name)
            for folder, one in results.items()
            if folder in folders
        }
        # The fewest words that tell all of them apart; the folder's name always does.
        for count in range(1, 5):
            said = {folder: _differing(list(of.values()), words, count) for folder, words in of.items()}
            if len(set(said.values())) == len(folders):
                marks.update(said)
                break
    return marks


def _differing(every: Sequence[tuple[str, ...]], own: tuple[str, ...], count: int) -> str:
    """The first `count` of a result's words, without those that all the others share."""
    return ", ".join(own[at] for at in range(count) if len({one[at] for one in every}) > 1)


def _limits(reading: LayerReading) -> tuple[float, float] | None:
    return None if reading.low is None or reading.high is None else (reading.low, reading.high)


def _chosen(reading: LayerReading) -> str:
    return ", ".join(f"{name} {value}" for name, value in reading.chosen.items() if name != "on_selection")


def differences(results: Mapping[Path, Probed]) -> list[ProbeDifference]:
    """Tests each pair of encoders on each probe that both were measured on with the same data, images and layers.

    Sweeps over several layers are not tested.
    """
    pairs = []
    for (a, one), (b, other) in combinations(results.items(), 2):
        same = all(
            getattr(one, key) == getattr(other, key) for key in ("probe", "protocol", "data", "data_hash", "rule")
        )
        # Blocks that are one encoder's default may have been asked of the other by their numbers.
        alike = one.asked == other.asked or _blocks(one) == _blocks(other)
        if same and alike and one.encoder != other.encoder and len(one.readings) == len(other.readings) == 1:
            pairs.append((one, other, _pair(a, b, one.probe, _stamp(a), _stamp(b))))
    corrected = holm([p for *_, (_, p) in pairs])
    return [
        ProbeDifference(
            one.probe, one.title, one.encoder, other.encoder, gap, p, held, one.better, DECIMALS[one.metric]
        )
        for (one, other, (gap, p)), held in zip(pairs, corrected, strict=True)
    ]


def probe_words(records: Sequence[RunRecord]) -> list[str]:
    """Sentences on the tests between the runs' encoders, for each probe that fills a column of classic vision."""
    results = {folder: one for record in records for folder, one in record.probed.items()}
    return [one.words() for one in differences({folder: one for folder, one in results.items() if one.column})]


def _stamp(folder: Path) -> int:
    return (folder / IMAGES).stat().st_mtime_ns


@cache
def _pair(a: Path, b: Path, probe: str, stamp_a: int, stamp_b: int) -> tuple[Interval, float]:
    # The time stamps are part of the cache's key, so that a result that was measured again is tested again.
    tested = image_pair(read_sums(a)[0], read_sums(b)[0], seed=seed_of(probe))
    return tested.difference, tested.p


def _sweep_words(one: Probed) -> list[str]:
    """Says which layer serves a task best, and which other layers lie within its interval."""
    if not any(reading.value is not None for reading in one.readings):
        return []
    best, decimals = one.best, DECIMALS[one.metric]
    near = [str(reading.layers[-1]) for reading in _as_good(one) if reading is not best]
    limits = _limits(best)
    between = f" [{printed(limits[0], decimals)}, {printed(limits[1], decimals)}]" if limits else ""
    others = f"; within its interval: block{'s' * (len(near) > 1)} {', '.join(near)}" if near else ""
    value = f"{printed(best.value, decimals)}{between}"
    return [f"{one.title}, {one.encoder}: block {best.layers[-1]} serves it best, {value}{others}."]


def _as_good(one: Probed) -> list[LayerReading]:
    """The best reading, and those whose values lie within its interval."""
    best, sign = one.best, -1 if one.better == "low" else 1
    edge = best.low if sign > 0 else best.high
    return [
        reading
        for reading in one.readings
        if reading is best or (edge is not None and reading.value is not None and sign * reading.value >= sign * edge)
    ]


def layer_for_vqa(sweeps: Sequence[Probed]) -> int | None:
    """The block to read for VQA by an encoder's sweeps over all blocks; None without sweeps.

    It is the last block that lies within the interval of the best one in every probe, since the paper reads the last
    block. If there is none, the blocks are ranked in each probe, the ranks are averaged over the probes of a metric
    (classification, segmentation, depth), then over the metrics, and the block with the lowest mean is chosen; of equal
    ones the last.
    """
    known = [one for one in sweeps if one.asked == "all" and all(reading.value is not None for reading in one.readings)]
    if not known:
        return None
    as_good = [{reading.layers[-1] for reading in _as_good(one)} for one in known]
    if everywhere := set.intersection(*as_good):
        return max(everywhere)
    from scipy.stats import rankdata  # takes half a second to load, which every table would pay for

    ranks: dict[str, list[dict[int, float]]] = {}
    for one in known:
        values = {reading.layers[-1]: reading.value or 0.0 for reading in one.readings}
        order = [value if one.better == "low" else -value for value in values.values()]
        ranks.setdefault(one.metric, []).append(dict(zip(values, rankdata(order), strict=True)))
    means = {
        block: fmean(fmean(own[block] for own in every) for every in ranks.values())
        for block in {block for every in ranks.values() for own in every for block in own}
    }
    return min(means, key=lambda block: (round(means[block], 9), -block))


def _choice_words(sweeps: Sequence[Probed]) -> list[str]:
    words = []
    for encoder in dict.fromkeys(one.encoder for one in sweeps):
        own = [one for one in sweeps if one.encoder == encoder and one.asked == "all"]
        block = layer_for_vqa(own)
        if block is not None:
            kinds = ", ".join(dict.fromkeys(KINDS[one.metric] for one in own))
            layer = block - max(len(one.readings) for one in own) - 1
            words.append(f"For VQA read block {block} of {encoder} (feature_layer: {layer}), by its {kinds}.")
    return words

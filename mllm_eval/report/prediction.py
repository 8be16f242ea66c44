"""Predicts an encoder's VQA score from cheap probe results, fitted on published rows.

It helps to decide which encoder is worth a full training.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mllm_eval.catalog import load_encoder
from mllm_eval.config import Strict, load
from mllm_eval.errors import UserError, near
from mllm_eval.report.site.figures import LINE, new_figure, save
from mllm_eval.report.table import Cell, Column, Row, Table, printed
from mllm_eval.report.words import title
from mllm_eval.results import AVERAGE, columns, published
from mllm_eval.results.probed import columns_of, probes_of
from mllm_eval.results.probes import Probe
from mllm_eval.results.published import number, values
from mllm_eval.stats.estimator import Floats
from mllm_eval.stats.predict import Worth, interval, predicted, skill, worth
from mllm_eval.storage import SHIPPED

VQA, CLASSIC = "vqa_all.csv", "classic_vision.csv"
TOGETHER = "all of them"
# The data pin of runs beside which probes on the published data sets are shown, whichever copy of these they read.
REAL = "hub"
# Endings of a figure's file.
FORMATS = (".png", ".pdf", ".svg")


class PublishedPair(Strict):
    """The VQA row and the classic-vision row of one published encoder. `samples` selects among rows of one name."""

    family: str
    table: str
    vqa: str
    classic_table: str
    classic: str
    samples: str | None = None


class Prediction(Strict):
    """The contents of configs/prediction.yaml: the probes that predict, and the published rows to fit on."""

    predictors: list[str]
    rows: list[PublishedPair]


@dataclass(frozen=True, slots=True)
class FittedRows:
    """The rows that a prediction is fitted on: float64 predictors `x` [N, P] and target `y` [N], names and families."""

    x: Floats
    y: Floats
    names: tuple[str, ...]
    families: tuple[str, ...]
    predictors: tuple[str, ...]

    def of(self, predictor: str) -> Floats:
        """The column [N, 1] of one predictor, or `x` [N, P] for all of them."""
        if predictor == TOGETHER:
            return self.x
        at = self.predictors.index(predictor)
        return self.x[:, at : at + 1]


def _config() -> Prediction:
    return load(SHIPPED / "configs" / "prediction.yaml", Prediction)


def evidence(target: str = AVERAGE) -> FittedRows:
    """Reads the published rows. Raises UserError for an unknown target, and for rows that the tables do not have."""
    config = _config()
    known = [AVERAGE, *columns().categories]
    if target not in known:
        raise UserError(f"--target {target}: is none of {', '.join(known)}.{near(target, known)}")
    vqa, classic = published(VQA), published(CLASSIC)
    x, y, names = [], [], []
    for pair in config.rows:
        seen = vqa[(vqa["table"] == pair.table) & (vqa["model"] == pair.vqa)]
        probed = classic[(classic["table"] == pair.classic_table) & (classic["model"] == pair.classic)]
        if pair.samples is not None:
            probed = probed[probed["samples"] == pair.samples]
        if len(seen) != 1 or len(probed) != 1:
            raise UserError(f"configs/prediction.yaml: {pair.vqa}: {len(seen)} and {len(probed)} rows, not one each")
        row = columns().means(values(seen.iloc[0], pair.vqa))
        x.append([number(str(probed.iloc[0][name]), pair.classic) or math.nan for name in config.predictors])
        y.append(row[target])
        names.append(pair.vqa)
    families = tuple(pair.family for pair in config.rows)
    return FittedRows(np.array(x), np.array(y), tuple(names), families, tuple(config.predictors))


def stored_predictors(encoder: str) -> dict[str, Probe]:
    """The stored probe results of an encoder from which a prediction can be made: predictor -> value.

    Only results on the published data sets count, with the encoder's present weights and the protocols' default layers
    and selection. Raises UserError if there are none, and for an unknown encoder.
    """
    facts, predictors = load_encoder(encoder), _config().predictors
    weights = facts.weights.digest()
    stored = columns_of(probes_of(facts, weights, REAL).values())
    if usable := {name: stored[name] for name in predictors if name in stored}:
        return usable
    raise UserError(
        f"{facts.name}: has no stored result of a probe that predicts ({', '.join(predictors)}) on the published data "
        "sets, by the default layers and selection; measure one "
        f"(mllm-eval probe {encoder} --probe PROBE --data hub), or say --given"
    )


def prediction_table(
    target: str = AVERAGE, given: Mapping[str, float] | None = None, encoder: str | None = None
) -> Table:
    """How well each probe result predicts the target, and what it predicts for the values of one encoder.

    given: predictor -> value. encoder: a name, or path to a yaml file, whose stored probe results are used where
    `given` has no value. Raises UserError for an unknown predictor, target or encoder, and as `stored_predictors`.
    """
    observed = evidence(target)
    given = dict(given or {})
    stored = {} if encoder is None else stored_predictors(encoder)
    for name in given:
        if name not in observed.predictors:
            known = ", ".join(observed.predictors)
            raise UserError(f"--given {name}: is none of {known}.{near(name, observed.predictors)}")
        if not math.isfinite(given[name]):
            raise UserError(f"--given {name}={given[name]}: is not finite; say the measured value, or leave it out")
    used = {name: one for name, one in stored.items() if name not in given}
    given |= {name: one.value for name, one in used.items()}
    rows = []
    sentences = []
    for name in (*observed.predictors, TOGETHER):
        shown_as = name if name == TOGETHER else title(name)
        told = worth(observed.of(name), observed.y, observed.families)
        rows.append(Row(shown_as, "published", {**_cells(told), **_predicted(observed, name, given)}))
        if not told.better_than_the_mean:
            sentences.append(f"{shown_as}: predicts no better than the mean of the other encoders does.")
    shown = [
        Column("skill", "Skill", decimals=2),
        Column("by_family", "Skill, other families", decimals=2),
        Column("p", "p", decimals=3),
        Column("error", "Error", decimals=1),
    ]
    if given:
        shown.append(Column("predicted", "Predicted"))
    notes = (
        f"{len(observed.y)} published encoders (arXiv:2504.01017v1) of {len(set(observed.families))} families. Each is "
        "predicted by a line fitted on the others; all predictors together by ridge regression.",
        "Skill: 1 - squared error / that of the others' mean; 0 is no better than that mean. Other families: an "
        "encoder is predicted from other families alone, as a new kind of encoder would be. p: share of shuffled "
        "targets that are predicted as well. Error: root mean square, in points.",
        *(["Predicted: with the 90 % limits of the jackknife+."] if given else []),
        *_extrapolated(observed, given),
        *(f"{encoder}, {title(name)} {printed(one.value, 3)}: {one.how}" for name, one in used.items()),
    )
    return Table(
        f"prediction-{target}", f"What predicts {title(target)}", tuple(shown), tuple(rows), notes, tuple(sentences)
    )


def _extrapolated(observed: FittedRows, given: Mapping[str, float]) -> list[str]:
    """A note for each value that is far off the published ones, as a share is where they are in per cent."""
    notes = []
    for name, value in given.items():
        low, high = float(observed.of(name).min()), float(observed.of(name).max())
        if not low - (high - low) / 2 <= value <= high + (high - low) / 2:
            notes.append(
                f"{title(name)} {printed(value, 3)} is far from the published {printed(low, 3)} to {printed(high, 3)}: "
                "its prediction is extrapolated."
            )
    return notes


def _cells(told: Worth) -> dict[str, Cell]:
    shown = {"skill": (told.skill, 2), "by_family": (told.by_family, 2), "p": (told.p, 3), "error": (told.error, 1)}
    return {key: Cell(printed(value, digits), value) for key, (value, digits) in shown.items() if not math.isnan(value)}


def _predicted(observed: FittedRows, name: str, given: Mapping[str, float]) -> dict[str, Cell]:
    asked = list(observed.predictors) if name == TOGETHER else [name]
    if not all(one in given for one in asked):
        return {}
    value, low, high = interval(observed.of(name), observed.y, np.array([given[one] for one in asked]))
    limits = f"[{printed(low, 1)}, {printed(high, 1)}]"
    return {"predicted": Cell(printed(value, 1), value, low=low, high=high, interval=limits)}


def draw_prediction(target: str, path: Path) -> None:
    """Draws a panel per predictor: published values against leave-one-out predictions, a marker per family.

    The figure is written to `path`. Raises UserError for another format than png, pdf and svg.
    """
    if path.suffix.lower() not in FORMATS:
        raise UserError(f"{path}: a figure ends in {', '.join(FORMATS[:-1])} or {FORMATS[-1]}")
    known = evidence(target)
    names: Sequence[str] = [*known.predictors, TOGETHER]
    figure = new_figure(2.5 * len(names), 2.9)
    panels = figure.subplots(1, len(names), sharex=True, sharey=True)
    low, high = float(known.y.min()) - 1, float(known.y.max()) + 1
    for axes, name in zip(panels, names, strict=True):
        left_out = predicted(known.of(name), known.y, range(len(known.y)))
        axes.plot([low, high], [low, high], color=LINE, linewidth=1)
        for index, family in enumerate(dict.fromkeys(known.families)):
            own = np.array([one == family for one in known.families])
            axes.plot(left_out[own], known.y[own], "osD^v<>"[index % 7], label=family, markersize=4)
        axes.set_title(
            f"{name if name == TOGETHER else title(name)}: skill {skill(left_out, known.y, range(len(known.y))):.2f}",
            fontsize=9,
            loc="left",
        )
        axes.set_xlabel("predicted from the others", fontsize=8)
    panels[0].set_ylabel(f"published {title(target)}", fontsize=8)
    panels[0].legend(fontsize=7, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    save(figure, path, dpi=150)

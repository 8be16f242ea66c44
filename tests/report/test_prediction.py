"""Predicting the VQA row from cheap measurements: against closed forms, simulation, and the published rows."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression, Ridge
from typer.testing import CliRunner

from mllm_eval.catalog import load_encoder
from mllm_eval.catalog.probe import load_protocol
from mllm_eval.cli.app import app
from mllm_eval.config import short_hash
from mllm_eval.errors import UserError
from mllm_eval.report.prediction import draw_prediction, evidence, prediction_table
from mllm_eval.results import published
from mllm_eval.results.probed import LayerReading, Probed, encoder_key, probes_home
from mllm_eval.stats.predict import RIDGES, fit, interval, predicted, worth
from mllm_eval.storage import write_json

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(14, 3)) * [1, 10, 0.01] + [5, 50, 0.3]
Y = X @ [2.0, 0.3, 0.0] + RANDOM.normal(size=14)


def test_one_predictor_is_least_squares() -> None:
    slopes, intercept = fit(X[:, :1], Y)
    other = LinearRegression().fit(X[:, :1], Y)
    assert [*slopes, intercept] == pytest.approx([*other.coef_, other.intercept_])


def test_several_are_the_ridge_that_predicts_left_out_rows_best() -> None:
    slopes, intercept = fit(X, Y)
    scaled = (X - X.mean(0)) / X.std(0)
    largest = np.linalg.svd(scaled)[1][0] ** 2
    errors = {}
    for ridge in RIDGES:
        left = []
        for row in range(len(Y)):
            # The hat matrix of a fit with a fixed scale and mean: only the slopes are fitted anew.
            hat = scaled @ np.linalg.inv(scaled.T @ scaled + ridge * largest * np.eye(3)) @ scaled.T + 1 / len(Y)
            residual = Y[row] - Y.mean() - ((hat - 1 / len(Y)) @ (Y - Y.mean()))[row]
            left.append(residual / (1 - hat[row, row]))
        errors[ridge] = sum(np.square(left))
    best = min(errors, key=errors.__getitem__)
    other = Ridge(alpha=best * largest).fit(scaled, Y) if best else LinearRegression().fit(scaled, Y)
    assert X @ slopes + intercept == pytest.approx(other.predict(scaled), abs=1e-6)


def test_left_out_rows_are_not_seen() -> None:
    found = predicted(X[:, :1], Y, range(len(Y)))
    for row in range(len(Y)):
        others = np.arange(len(Y)) != row
        other = LinearRegression().fit(X[others, :1], Y[others])
        assert found[row] == pytest.approx(other.predict(X[row : row + 1, :1])[0])
    changed = Y.copy()
    changed[3] += 1000
    assert predicted(X[:, :1], changed, range(len(Y)))[3] == pytest.approx(found[3])


def test_a_family_is_left_out_whole() -> None:
    families = ["a"] * 5 + ["b"] * 5 + ["c"] * 4
    found = predicted(X[:, :1], Y, families)
    others = np.array([one != "b" for one in families])
    assert found[5:10] == pytest.approx(LinearRegression().fit(X[others, :1], Y[others]).predict(X[5:10, :1]))


def test_noise_predicts_nothing_and_a_line_everything() -> None:
    families = ["a", "b"] * 7
    noise = [worth(RANDOM.normal(size=(14, 1)), RANDOM.normal(size=14), families, seed) for seed in range(30)]
    assert sum(one.better_than_the_mean for one in noise) <= 4
    assert np.mean([one.skill for one in noise]) < 0
    line = worth(X[:, :1], 3 * X[:, 0] + 1, families)
    assert line.better_than_the_mean and line.skill == pytest.approx(1) and line.p == 0.001
    with pytest.raises(ValueError, match="five rows"):
        worth(X[:4], Y[:4], families[:4])


def test_p_of_one_predictor_is_that_of_fitting_each_shuffle_anew() -> None:
    from mllm_eval.stats import predict

    random = np.random.default_rng(7)
    shuffles = [random.permutation(Y) for _ in range(predict.PERMUTATIONS)]
    told = worth(X[:, :1], Y, ["a", "b"] * 7, seed=7)
    above = 0
    for other in shuffles[:60]:
        found = predicted(X[:, :1], other, range(14))
        means = np.array([np.delete(other, row).mean() for row in range(14)])
        above += 1 - np.sum((found - other) ** 2) / np.sum((means - other) ** 2) >= told.skill
    assert told.p == pytest.approx((1 + above / 60 * 999) / 1000, abs=0.08)


@pytest.mark.slow
def test_the_interval_covers_what_it_says() -> None:
    covered = 0
    for seed in range(200):
        random = np.random.default_rng(seed)
        x = random.normal(size=(17, 1))
        y = 2 * x[:, 0] + random.standard_t(4, size=17)
        _, low, high = interval(x[:-1], y[:-1], x[-1])
        covered += low <= y[-1] <= high
    assert 165 <= covered <= 196
    assert interval(X[:6, :1], Y[:6], X[7, :1])[1:] == (-math.inf, math.inf)


def test_rows_are_the_published_ones() -> None:
    found = evidence("avg")
    assert len(found.names) == len(set(found.names)) == 16 and found.x.shape == (16, 5)
    assert not np.isnan(found.x).any()
    sota = published("sota_table3.csv")
    shown = {"SigLIP2 ViT-SO400M": "384", "MAE ViT-H": "224", "DINOv2 ViT-g": "518", "Web-DINO ViT-7B": "378"}
    for model, res in shown.items():
        (row,) = [one for _, one in sota.iterrows() if (one["model"], one["res"]) == (model, res)]
        at = found.names.index(f"{model} @{res}")
        assert found.y[at] == pytest.approx(float(row["avg"]), abs=0.06)
        assert list(found.x[at]) == pytest.approx([float(row[name]) for name in found.predictors])


@pytest.mark.slow
def test_the_table_says_where_nothing_is_predicted() -> None:
    table = prediction_table("avg")
    cells = {row.label: row.cells for row in table.rows}
    assert len(cells) == 6
    for label, own in cells.items():
        value, by_family, p = (own[key].value for key in ("skill", "by_family", "p"))
        assert value is not None and by_family is not None and p is not None
        said = any(sentence.startswith(f"{label}: predicts no better") for sentence in table.sentences)
        assert said == (value <= 0 or by_family <= 0 or p > 0.05)
    assert table.sentences


@pytest.mark.slow
def test_what_is_given_is_predicted_with_limits() -> None:
    table = prediction_table("vision_centric", {"in1k": 84.0, "nyud_lin1": 0.4})
    cells = [row.cells.get("predicted") for row in table.rows]
    assert [one is not None for one in cells] == [True, False, False, True, False, False]
    for one in (cells[0], cells[3]):
        assert one and one.low is not None and one.value is not None and one.high is not None
        assert one.low <= one.value <= one.high
    with pytest.raises(UserError, match="in1k"):
        prediction_table("avg", {"in1": 84.0})
    with pytest.raises(UserError, match="ocr_chart"):
        prediction_table("ocr")


def stored(encoder: str, probe: str, value: float, **changes: Any) -> None:
    """A result as `probe` stores it of a measurement on the real data."""
    facts, protocol = load_encoder(encoder), load_protocol(probe)
    data = "hub" if "hub" in protocol.data else "folders"
    measured = protocol.on(data).model_copy(update={"selection": "train_holdout"}).hash
    one = Probed(
        encoder=encoder, encoder_hash=encoder_key(facts), weights=facts.weights.digest(), summary="cls", probe=probe,
        version=protocol.version, protocol=measured, title="t", column=protocol.column, metric=protocol.metric,
        data=data, data_hash="d", beside="hub", asked="default", default=True, rule="train_holdout",
        selection="head chosen on held out images", n=50, n_failed=0, n_train=90, n_left_out=0, failed={}, left_out={},
        readings=[LayerReading(layers=[6], value=value, low=value, high=value)], seconds=1, cpu_seconds=1,
        environment={},
    )  # fmt: skip
    folder = probes_home() / short_hash([probe, value, changes])
    write_json(folder / "result.json", one.model_copy(update=changes).model_dump(mode="json"))


@pytest.mark.slow
def test_the_stored_probes_of_an_encoder_are_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLLM_EVAL_RESULTS", str(tmp_path))
    # None of these is a default on the published data, with these weights.
    for at, change in enumerate(({"beside": "mini"}, {"default": False}, {"weights": "others"}, {"version": 0})):
        stored("mini-dino", "in1k_linear", 50.0 + at, **change)
    stored("mini-dino", "in1k_knn", 60.0)
    with pytest.raises(
        UserError, match=r"mini-dino: has no stored result .*in1k.*probe mini-dino --probe PROBE --data hub"
    ):
        prediction_table("avg", encoder="mini-dino")
    with pytest.raises(UserError, match="mini-dino"):
        prediction_table("avg", encoder="mini-dinoo")
    stored("mini-dino", "in1k_linear", 84.0)
    stored("mini-dino", "nyu_linear1", 0.4)
    by_name, by_hand = (prediction_table("avg", given, one) for given, one in
                        (({}, "mini-dino"), ({"in1k": 84.0, "nyud_lin1": 0.4}, None)))  # fmt: skip
    assert by_name.rows == by_hand.rows and [row.label for row in by_name.rows if "predicted" in row.cells]
    assert any(note.startswith("mini-dino, IN1k lin. 84.000: in1k_linear.v1") for note in by_name.notes)
    # A value that is said goes before the stored one.
    own = prediction_table("avg", {"in1k": 70.0}, "mini-dino")
    assert own.rows[3] == by_hand.rows[3] and own.rows[0] == prediction_table("avg", {"in1k": 70.0}).rows[0]
    assert not any("84.000" in note for note in own.notes)
    done = CliRunner().invoke(app, ["stats", "predict", "--encoder", "mini-dino"])
    assert done.exit_code == 0 and "Predicted" in done.output and "in1k_linear.v1" in done.output


@pytest.mark.slow
def test_given_values_that_cannot_be_meant_are_refused_or_noted() -> None:
    for value in (math.nan, math.inf):
        with pytest.raises(UserError, match=r"--given nyud_lin1=.* is not finite"):
            prediction_table("avg", {"nyud_lin1": value})
    twice = CliRunner().invoke(app, ["stats", "predict", "--given", "in1k=84,in1k=85"])
    assert twice.exit_code == 2 and "say it once" in twice.output
    # A share where the published values are in per cent.
    assert any("IN1k lin. 0.840 is far from" in note for note in prediction_table("avg", {"in1k": 0.84}).notes)
    assert not any("far from" in note for note in prediction_table("avg", {"in1k": 84.0}).notes)


@pytest.mark.slow
def test_the_command_prints_and_draws(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["stats", "predict", "--given", "in1k=84", "--figure", str(tmp_path / "p.png")])
    assert done.exit_code == 0 and "IN1k" in done.output and "no better than the mean" in done.output
    assert (tmp_path / "p.png").stat().st_size > 10_000
    assert CliRunner().invoke(app, ["stats", "predict", "--given", "in1k"]).exit_code == 2
    other = CliRunner().invoke(app, ["stats", "predict", "--figure", str(tmp_path / "new/p.doc")])
    assert other.exit_code == 2 and other.output.endswith("p.doc: a figure ends in .png, .pdf or .svg\n")
    assert other.output.count("\n") == 1 and not (tmp_path / "new").exists()
    draw_prediction("ocr_chart", tmp_path / "q.svg")
    assert "<svg" in (tmp_path / "q.svg").read_text()

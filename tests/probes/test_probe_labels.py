"""Which result of a probe stands where: the words it was asked in, the column it fills, and results side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import made_probes
import made_runs
import numpy as np
import pytest
from tiny_models import make_encoder

from mllm_eval.catalog.layers import layers_name
from mllm_eval.catalog.probe import load_protocol
from mllm_eval.probes.measuring import Measurement, measure
from mllm_eval.report.probetable import differences, probe_table
from mllm_eval.results import read_run
from mllm_eval.results.probed import LayerReading, Probed, columns_of, encoder_key, probes_home, probes_of, saved_probes
from mllm_eval.storage import write_json


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLLM_EVAL_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("MLLM_EVAL_DATA", str(tmp_path / "data"))


def result(**changes: Any) -> Probed:
    protocol = load_protocol("in1k_linear")
    readings = [LayerReading(layers=[1, 2, 3, 4], value=50.0, low=45.0, high=55.0)]
    facts: dict[str, Any] = {
        "encoder": "mini-dino", "encoder_hash": encoder_key(made_runs.encoder()), "weights": "w", "summary": "cls",
        "probe": "in1k_linear", "version": 1, "protocol": protocol.on("mini").hash, "title": "linear",
        "column": "in1k", "metric": "top1", "data": "mini", "data_hash": "d", "beside": "mini", "asked": "default",
        "default": True, "rule": "train_holdout", "selection": "held out", "n": 40, "n_failed": 0, "n_train": 90,
        "n_left_out": 0, "failed": {}, "left_out": {}, "readings": readings, "seconds": 1.0, "cpu_seconds": 1.0,
        "environment": {},
    }  # fmt: skip
    return Probed(**{**facts, **changes})


def stored(name: str, one: Probed) -> Path:
    folder = probes_home() / name
    write_json(folder / "result.json", one.model_dump(mode="json"))
    np.savez(folder / "images.npz", **{"scores.0": (np.arange(one.n) % (3 + len(one.encoder)) > 1).astype(np.float32)})
    return folder


def own_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str) -> None:
    folder = tmp_path / "own/configs/probes"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.yaml").write_text(f"base: in1k_linear\nname: {name}\n{text}")
    monkeypatch.setenv("MLLM_EVAL_PATH", str(tmp_path / "own"))


def filled(weights: str = "w") -> dict[str, Any]:
    return columns_of(probes_of(made_runs.encoder(), weights, "mini").values())


# ---- the words that layers are asked in ----
def test_the_same_blocks_have_one_name() -> None:
    for asked, name in (([(6,)], "default"), ([(3, 4, 5, 6)], "last4"), ([(2, 3, 5, 6)], "even4"), ([(2, 6)], "2,6")):
        assert layers_name(asked, "last", 6) == name
    assert layers_name([(number,) for number in range(1, 7)], "last", 6) == "all"
    assert layers_name([(3, 4, 5, 6)], "last4", 6) == "default" == layers_name([(2, 5)], [2, 5], 6)
    # The protocol names blocks that the encoder does not have.
    assert layers_name([(6,)], [5, 12], 6) == "last"


@pytest.mark.slow
def test_a_default_probe_is_one_whoever_asked_first(tmp_path: Path) -> None:
    protocol = made_probes.protocol("in1k_knn", tmp_path / "sets")
    encoder, place = make_encoder(tmp_path / "encoder"), Path(str(protocol.pin("small").folder))
    jobs = [Measurement(encoder, protocol, "small", place, asked) for asked in ("2", "last", "-1", None)]
    assert len({job.hash for job in jobs}) == 1
    found = [measure(job) for job in jobs]
    assert all((one.asked, one.default) == ("default", True) for one in found)
    assert list(saved_probes().values()) == found[:1]
    # Of an encoder under another name, and of the data under another: the row has the names that were asked for.
    renamed = encoder.model_copy(update={"name": "again"})
    elsewhere = protocol.model_copy(update={"column": "in1k", "title": "mine"})
    other = measure(Measurement(renamed, elsewhere, "small", place, None))
    assert (other.encoder, other.title, other.column) == ("again", "mine", "in1k")
    assert other.readings == found[0].readings


def test_an_older_result_that_was_asked_as_last_fills_its_column(tmp_path: Path) -> None:
    depth = made_runs.encoder().depth
    layers = list(range(max(1, depth - 3), depth + 1))
    older = result(
        asked=",".join(map(str, layers)),
        default=False,
        readings=[LayerReading(layers=layers, value=50.0, low=45.0, high=55.0)],
    )
    folder = stored("a" * 12, older)
    assert filled()["in1k"].value == 50.0
    by_word = stored("a" * 12, older.model_copy(update={"asked": "last4"}))
    assert folder == by_word and filled()["in1k"].value == 50.0
    (shown,) = saved_probes().values()
    assert (shown.asked, shown.default) == ("default", True)
    # On the reported images, or of other blocks, it does not.
    stored("a" * 12, older.model_copy(update={"rule": "val"}))
    assert not filled()
    stored(
        "a" * 12, older.model_copy(update={"readings": [LayerReading(layers=[depth], value=50.0, low=45.0, high=55.0)]})
    )
    assert not filled()


def test_encoders_are_tested_however_the_blocks_were_named(tmp_path: Path) -> None:
    one = result()
    other = result(encoder="deeper", asked="1,2,3,4", default=False)
    found = {stored("a" * 12, one): one, stored("b" * 12, other): other}
    assert len(differences(found)) == 1
    apart = result(
        encoder="deeper",
        asked="1,2",
        default=False,
        readings=[LayerReading(layers=[1, 2], value=1.0, low=0.0, high=2.0)],
    )
    assert not differences({stored("a" * 12, one): one, stored("b" * 12, apart): apart})


# ---- who fills a column ----
def test_a_protocol_of_ones_own_does_not_take_the_papers_column(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_protocol(tmp_path, monkeypatch, "mine", "momentum: 0.8\n")
    own_protocol(tmp_path, monkeypatch, "yours", "column: in1k\nmomentum: 0.7\n")
    assert load_protocol("in1k_linear").column == "in1k" == load_protocol("yours").column
    mine = load_protocol("mine")
    assert mine.column is None and mine.on("mini").column is None
    # What an older version stored under the column that it took over.
    stored(
        "b" * 12,
        result(
            probe="mine",
            protocol=mine.on("mini").hash,
            readings=[LayerReading(layers=[1], value=99.0, low=98.0, high=100.0)],
        ),
    )
    assert not filled()
    stored("a" * 12, result())
    assert filled()["in1k"].value == 50.0 and "not shown" not in filled()["in1k"].how
    # A yaml that claims the column itself fills it where the shipped protocol has no result, and is named where it has.
    claimed = load_protocol("yours").on("mini").hash
    theirs = result(
        probe="yours", protocol=claimed, readings=[LayerReading(layers=[1], value=99.0, low=98.0, high=100.0)]
    )
    folder = stored("0" * 12, theirs)
    assert filled()["in1k"].value == 50.0
    assert filled()["in1k"].how.endswith(f"; not shown: 99 (yours.v1 ({claimed}) on mini)")
    (probes_home() / ("a" * 12) / "result.json").unlink()
    assert filled()["in1k"].value == 99.0 and folder.is_dir()


def test_a_yaml_that_was_edited_without_a_new_version_has_no_result_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_protocol(tmp_path, monkeypatch, "mine", "column: in1k\nmomentum: 0.8\n")
    stored("a" * 12, result(probe="mine", protocol=load_protocol("mine").on("mini").hash))
    assert filled()["in1k"].value == 50.0
    own_protocol(tmp_path, monkeypatch, "mine", "column: in1k\nmomentum: 0.7\n")
    assert not filled()
    # Of a data pin that is gone, or a yaml that is gone, the result stays.
    stored("a" * 12, result(probe="mine", data="gone"))
    assert filled()["in1k"].value == 50.0
    stored("a" * 12, result(probe="mine", data="gone", version=2))
    assert not filled()
    stored("a" * 12, result(probe="nobodys", version=2))
    assert filled()["in1k"].value == 50.0


def test_two_results_of_a_probe_have_a_row_each_and_a_note(tmp_path: Path) -> None:
    made_runs.make_run("mini-dino", benchmarks=["gqa"])
    linear = load_protocol("in1k_linear")
    one = result(data="hub", beside="mini", protocol=linear.on("hub").hash, n_failed=1)
    other = result(
        data="folders",
        beside="mini",
        protocol=linear.on("folders").hash,
        readings=[LayerReading(layers=[1, 2, 3, 4], value=51.0, low=45.0, high=55.0)],
    )
    found = {stored("a" * 12, one): one, stored("b" * 12, other): other}
    table = probe_table(found)
    assert [row.label for row in table.rows] == ["mini-dino (on hub)", "mini-dino (on folders)"]
    assert [row.cells["in1k_linear"].value for row in table.rows] == [50.0, 51.0]
    # The one with fewer failed images is shown, the other one is named.
    assert filled()["in1k"].value == 51.0 and "; not shown: 50 (in1k_linear.v1" in filled()["in1k"].how
    # The same data on two devices: the folders tell them apart.
    twin = {stored("a" * 12, one): one, stored("c" * 12, one): one}
    assert [row.label for row in probe_table(twin).rows] == [f"mini-dino ({letter * 12})" for letter in "ac"]
    alone = stored("a" * 12, one)
    assert [row.label for row in probe_table({alone: one}).rows] == ["mini-dino"]


def test_a_run_holds_the_results_of_its_encoder(tmp_path: Path) -> None:
    run = made_runs.make_run("mini-dino", benchmarks=["gqa"])
    folder = stored("a" * 12, result(weights=run.weights["encoder"]))
    assert list(read_run(run.folder).probed) == [folder]

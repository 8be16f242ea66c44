"""Whole probes on small data in the real layouts: figures, kills, processes, bad input, tables."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import made_probes
import made_runs
import numpy as np
import pytest
from forked import run_ranks
from PIL import Image
from tiny_models import make_encoder
from typer.testing import CliRunner

from mllm_eval import report
from mllm_eval.catalog import Encoder
from mllm_eval.catalog.folders import names
from mllm_eval.catalog.probe import load_protocol
from mllm_eval.errors import UserError
from mllm_eval.miniature.probes import build
from mllm_eval.probes.layouts import read_examples
from mllm_eval.probes.locking import lock_data, lock_path, locked_place
from mllm_eval.probes.measuring import Measurement, measure, selected
from mllm_eval.report.probetable import differences, layer_for_vqa, probe_table, read_sums
from mllm_eval.report.render import render
from mllm_eval.report.site.visionplots import sweep_figure
from mllm_eval.results import probed, read_run
from mllm_eval.results.probed import Probed, encoder_key, probes_of, saved_probes
from mllm_eval.storage import sha256_file, write_json

# What the tests share takes long to make.
pytestmark = pytest.mark.slow


EVERY = sorted(made_probes.SMALL)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLLM_EVAL_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("MLLM_EVAL_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def job(
    tmp_path: Path, name: str, encoder: Encoder | None = None, asked: str | None = None, **changes: Any
) -> Measurement:
    protocol = made_probes.protocol(name, tmp_path / "sets").model_copy(update=changes)
    place = Path(str(protocol.pin("small").folder))
    return Measurement(encoder or make_encoder(tmp_path / "encoder"), protocol, "small", place, asked)


def test_every_shipped_probe_is_whole_and_has_a_miniature() -> None:
    known = names("probes")
    assert known == EVERY
    for name in known:
        protocol = load_protocol(name)
        assert protocol.sources and protocol.title and protocol.pin("mini").source == "local"
        assert any(one.source != "local" for one in protocol.data.values())
        assert protocol.on("mini").hash != "" and protocol.on("mini").metric == protocol.metric
    linear: Any = load_protocol("in1k_linear")
    assert len(linear.rates) * len(linear.depths) * len(linear.patch_mean) == 52
    assert (linear.batch, linear.steps, linear.deviation) == (1024, 12500, 0.01)


@pytest.mark.parametrize("name", EVERY)
def test_a_probe_measures_once_and_leaves_what_each_image_adds(name: str, tmp_path: Path) -> None:
    asked = job(tmp_path, name)
    found = measure(asked)
    assert found.n == (15 if name.startswith("in1k") else 5) and found.n_failed == found.n_left_out == 0
    (reading,) = found.readings
    assert reading.value is not None and reading.low is not None and reading.high is not None
    assert reading.low <= reading.value <= reading.high
    (sums,) = read_sums(asked.folder)
    assert sums.value == pytest.approx(reading.value) and sums.valid == found.n
    assert not list(asked.folder.glob("going-on*"))
    before = sha256_file(asked.folder / "result.json")
    assert measure(asked) == found and sha256_file(asked.folder / "result.json") == before
    assert found.version == asked.protocol.version and found.protocol == asked.protocol.hash and found.selection
    # What is told apart by colour alone is learnt even from random features.
    if name.startswith("in1k"):
        assert reading.value > 60


def break_one_of_each_split(sets: Path) -> None:
    """Makes one training and one test image of each layout unusable: the picture, the mask, the depth."""
    for name in ("in1k_linear", "ade20k_linear", "nyu_linear1"):
        made_probes.protocol(name, sets)
    (sets / "imagenet/val/n01/n01_1.png").write_bytes(b"no picture")
    (sets / "imagenet/train/n02/n02_2.png").write_bytes(b"no picture")
    mask = np.full((32, 40), 77, np.uint8)
    Image.fromarray(mask).save(sets / "ade20k/annotations/validation/x1.png")
    Image.fromarray(mask).save(sets / "ade20k/annotations/training/x2.png")
    Image.fromarray(np.zeros((30, 40), np.uint16)).save(sets / "nyu/official_splits/test/den/sync_depth_3.png")
    Image.fromarray(np.zeros((30, 40), np.uint16)).save(sets / "nyu/sync/den/sync_depth_0.png")


def without_time(found: Probed) -> dict[str, Any]:
    return found.model_dump(exclude={"seconds", "cpu_seconds", "environment"})


@pytest.mark.parametrize("name", ["in1k_linear", "ade20k_linear", "nyu_linear1"])
def test_a_killed_probe_goes_on_to_the_same_figures(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    break_one_of_each_split(tmp_path / "sets")
    whole = job(tmp_path, name)
    expected = measure(whole)
    assert expected.n_failed == expected.n_left_out == 1
    images = dict(np.load(whole.folder / "images.npz"))
    monkeypatch.setattr("mllm_eval.probes.keeping.EVERY_SECONDS", 0.0)
    monkeypatch.setattr("mllm_eval.probes.keeping.SHARE", 1e9)
    monkeypatch.setattr("mllm_eval.probes.dense.CHUNK", 2)
    monkeypatch.setattr("mllm_eval.probes.linear.CHUNK", 4)
    monkeypatch.setenv("MLLM_EVAL_RESULTS", str(tmp_path / "again"))
    total = 0

    def count(done: int, of: int) -> None:
        nonlocal total
        total = of

    measure(job(tmp_path, name), count)
    for share in (0.35, 0.6, 0.97):
        monkeypatch.setenv("MLLM_EVAL_RESULTS", str(tmp_path / f"killed{share}"))
        killed = job(tmp_path, name)

        def stop(done: int, of: int, share: float = share) -> None:
            if done >= share * of:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            measure(killed, stop)
        assert killed.done() is None
        begun: list[int] = []
        again = measure(killed, lambda done, of, begun=begun: begun.append(done))  # type: ignore[misc]
        assert without_time(again) == without_time(expected) and begun[0] > 0.2 * total
        found = dict(np.load(killed.folder / "images.npz"))
        assert found.keys() == images.keys() and all(np.array_equal(found[key], images[key], True) for key in found)


def _measured(folder: str, name: str) -> int:
    from mllm_eval.distributed.collectives import meet

    meet()
    measure(job(Path(folder), name))
    return 0


@pytest.mark.parametrize("name", ["in1k_linear", "ade20k_ms", "nyu_linear1", "in1k_knn"])
def test_two_processes_have_the_figures_and_the_failures_of_one(name: str, tmp_path: Path) -> None:
    break_one_of_each_split(tmp_path / "sets")
    alone = job(tmp_path, name)
    expected = measure(alone)
    codes = run_ranks(2, tmp_path, _measured, str(tmp_path), name, environment={
        "MLLM_EVAL_RESULTS": str(tmp_path / "two"), "MLLM_EVAL_DATA": str(tmp_path / "data")})  # fmt: skip
    assert codes == [0, 0], [path.read_text()[-2000:] for path in tmp_path.glob("rank*.log")]
    two = tmp_path / "two" / "probes" / alone.hash
    assert without_time(probed.read_probed(two)) == without_time(expected) and expected.n_failed == 1
    one, other = (dict(np.load(folder / "images.npz")) for folder in (alone.folder, two))
    assert one.keys() == other.keys() and all(np.array_equal(one[key], other[key], True) for key in one)


def test_heads_of_several_layers_are_those_of_each_layer_alone(tmp_path: Path) -> None:
    for name in ("in1k_knn", "in1k_linear", "ade20k_linear", "nyu_linear1"):
        swept = measure(job(tmp_path, name, asked="all"))
        assert [reading.layers for reading in swept.readings] == [[1], [2]]
        for number, reading in enumerate(swept.readings, start=1):
            alone = measure(job(tmp_path, name, asked=str(number))).readings[0]
            assert alone.layers == reading.layers
            assert alone.value == reading.value and alone.chosen == reading.chosen


def test_the_layer_for_vqa_is_the_last_one_unless_another_is_better(tmp_path: Path) -> None:
    measured = measure(job(tmp_path, "in1k_knn", asked="all"))

    def swept(metric: str, *values: float | None, within: float = 0.01) -> probed.Probed:
        readings = [
            probed.LayerReading(layers=[at], value=value, low=value and value - within, high=value and value + within)
            for at, value in enumerate(values, 1)
        ]
        return measured.model_copy(update={"metric": metric, "probe": f"{metric}{values}", "readings": readings})

    top1, miou, rmse = (swept(*one) for one in (("top1", 1, 2, 3), ("miou", 5, 9, 1), ("rmse", 0.2, 0.1, 0.3)))
    assert layer_for_vqa([top1]) == 3
    # No block is as good as the best one everywhere: the lowest mean rank.
    assert layer_for_vqa([top1, miou, rmse]) == 2
    # Three probes of one kind weigh as much as one.
    assert layer_for_vqa([top1, top1, top1, miou, rmse]) == 2
    assert layer_for_vqa([swept("top1", 1, 2, 3), swept("miou", 3, 2, 1)]) == 3, "of equal ranks the last"
    # Where several blocks are as good as the best one, the last of them, whatever their ranks.
    assert layer_for_vqa([swept("top1", 5, 4, 3, within=2.5)]) == 3
    assert layer_for_vqa([swept("top1", 5, 4, 3, within=2.5), swept("rmse", 0.1, 0.15, 0.3, within=0.06)]) == 2
    assert layer_for_vqa([swept("top1", 1, None, 3)]) is None
    assert layer_for_vqa([top1.model_copy(update={"asked": "1,2,3"})]) is None
    table = probe_table({Path(str(at)): one for at, one in enumerate((top1, miou, rmse))})
    words = "For VQA read block 2 of tiny-dinov2 (feature_layer: -2), by its classification, segmentation, depth."
    assert words in table.sentences


def test_a_sweep_says_which_layer_is_best_and_draws_it(tmp_path: Path) -> None:
    swept = job(tmp_path, "in1k_knn", asked="all")
    found = {swept.folder: measure(swept)}
    table = probe_table(found)
    assert [row.label for row in table.rows] == ["tiny-dinov2 (block 1)", "tiny-dinov2 (block 2)"]
    best = found[swept.folder].best
    assert any(f"block {best.layers[-1]} serves it best" in one for one in table.sentences)
    assert any(one.startswith("For VQA read block ") for one in table.sentences)
    (axes,) = sweep_figure(list(found.values())).axes
    assert list(axes.lines[0].get_xdata()) == [1, 2]
    assert "[" in render(table, "md") and found[swept.folder].asked == "all" and not found[swept.folder].default


def test_heads_are_chosen_on_a_hold_out_unless_asked_otherwise(tmp_path: Path) -> None:
    asked = job(tmp_path, "in1k_linear")
    held = measure(asked)
    assert held.rule == "train_holdout" and held.n_train == 18 and "held out" in held.selection and held.default
    published = Measurement(asked.encoder, selected(asked.protocol, "val"), "small", asked.place, None)
    found = measure(published)
    assert found.n_train == 24 and "as published" in found.selection and not found.default
    assert published.hash != asked.hash
    assert found.readings[0].chosen["on_selection"] == pytest.approx(found.readings[0].value, abs=1e-3)
    with pytest.raises(UserError, match="has one head"):
        selected(load_protocol("nyu_linear1"), "val")
    with pytest.raises(UserError, match="train_holdout, val"):
        selected(load_protocol("in1k_knn"), "test")


# ---- what belongs to what ----
def test_a_result_belongs_to_weights_and_pixels_and_not_to_the_layer_of_vqa(tmp_path: Path) -> None:
    one = make_encoder(tmp_path / "encoder")
    assert encoder_key(one) == encoder_key(one.model_copy(update={"feature_layer": -2, "norm": False, "name": "x"}))
    finer = one.model_copy(update={"preprocessing": one.preprocessing.model_copy(update={"size": 56})})
    assert encoder_key(finer) != encoder_key(one)
    first = job(tmp_path, "in1k_knn", one)
    assert job(tmp_path, "in1k_knn", finer).hash != first.hash != job(tmp_path, "in1k_logreg", one).hash
    before = first.hash
    (first.place / "train" / "n01" / "n01_0.png").unlink()
    assert job(tmp_path, "in1k_knn", one).hash != before


def test_own_results_stand_in_the_rows_of_runs_beside_the_papers(tmp_path: Path) -> None:
    run = made_runs.make_run("mini-dino", benchmarks=["gqa"])
    record = read_run(run.folder)
    assert record.probes == {}
    asked = job(tmp_path, "in1k_linear")
    found = measure(asked)
    mine = found.model_copy(
        update={"encoder_hash": encoder_key(made_runs.encoder()), "weights": run.weights["encoder"]}
    )
    write_json(asked.folder / "result.json", mine.model_dump(mode="json"))
    probe = read_run(run.folder).probes["in1k"]
    assert probe.value == found.readings[0].value and probe.n == 15 and "in1k_linear.v1" in probe.how
    shown = report.comparison([read_run(run.folder)], intervals=True).rows[0]
    assert shown.cells["in1k"].interval.startswith("[") and any("held out" in note for note in shown.notes)
    assert probes_of(made_runs.encoder(), run.weights["encoder"], "hub") == {}
    write_json(asked.folder / "result.json", mine.model_copy(update={"version": 0}).model_dump(mode="json"))
    assert probes_of(made_runs.encoder(), run.weights["encoder"], "mini") == {}
    write_json(asked.folder / "result.json", mine.model_dump(mode="json"))
    other = made_runs.make_run("mini-clip", benchmarks=["gqa"])
    theirs = mine.model_copy(update={"encoder": "mini-clip", "weights": other.weights["encoder"]})
    theirs_folder = asked.folder.with_name("0" * 12)
    shutil.copytree(asked.folder, theirs_folder)
    write_json(theirs_folder / "result.json", theirs.model_dump(mode="json"))
    said = report.comparison([read_run(run.folder), read_run(other.folder)]).sentences
    assert [text for text in said if "are not told apart" in text and "ImageNet-1k, linear" in text]
    # What somebody measured elsewhere and put into the run's folder comes first.
    write_json(run.folder / "probes.json", {"in1k": {"value": 50.0, "n": 10, "how": "elsewhere"}})
    assert read_run(run.folder).probes["in1k"].value == 50.0


def test_encoders_are_tested_on_the_same_images(tmp_path: Path) -> None:
    one = job(tmp_path, "in1k_knn")
    other = job(tmp_path, "in1k_knn", make_encoder(tmp_path / "vit", "vit"))
    found = {asked.folder: measure(asked) for asked in (one, other)}
    (gap,) = differences(found)
    values = [result.readings[0].value or 0.0 for result in found.values()]
    assert gap.difference.value == pytest.approx(values[0] - values[1]) and 0 < gap.p <= 1
    assert {gap.a, gap.b} == {"tiny-dinov2", "tiny-vit"} and gap.holm == gap.p
    text = render(probe_table(found), "md")
    assert "told apart" in text or "better than" in text
    assert list(saved_probes().values()) == sorted(found.values(), key=lambda result: result.encoder)


# ---- bad input ----
def test_a_broken_picture_a_strange_mask_and_a_depth_of_zeros_are_counted_and_named(tmp_path: Path) -> None:
    break_one_of_each_split(tmp_path / "sets")
    said = {
        "in1k_linear": "n01_1.png: the image can't be decoded",
        "in1k_knn": "n01_1.png: the image can't be decoded",
        "in1k_logreg": "n01_1.png: the image can't be decoded",
        "ade20k_linear": "x1.png: value 77 is no class; 1 to 3 are",
        "nyu_linear1": "sync_depth_3.png: no pixel has a depth",
    }
    for name, why in said.items():
        asked = job(tmp_path, name)
        found = measure(asked)
        assert found.n_failed == 1 and found.n_left_out == 1, name
        assert why in next(iter(found.failed.values()))
        assert read_sums(asked.folder)[0].valid == found.n - 1
        assert found.readings[0].value is not None and "1 failed" in found.how()
        # Of 24 images 18 are left beside the hold-out, which the broken one is not in.
        left = {"in1k_linear": 17, "ade20k_linear": 5, "nyu_linear1": 5}.get(name, 23)
        assert f", {left} training images (1 left out)" in found.how(), name


def test_where_nothing_can_be_used_the_first_is_named(tmp_path: Path) -> None:
    made_probes.protocol("nyu_linear1", tmp_path / "sets")
    for path in (tmp_path / "sets/nyu/official_splits/test/den").glob("sync_depth*"):
        Image.fromarray(np.zeros((30, 40), np.uint16)).save(path)
    with pytest.raises(UserError, match=r"sync_depth_0.png: no pixel has a depth \(and so all 5 test images\)"):
        measure(job(tmp_path, "nyu_linear1"))


@pytest.mark.parametrize(
    ("break_it", "layout", "said"),
    [
        (lambda top: (top / "val/n09").mkdir(), "in1k_knn", r"val/n09: a class that train does not have"),
        (lambda top: (top / "train").rename(top / "training"), "in1k_knn", r"imagenet/train: no such folder"),
        (
            lambda top: (top / "annotations/training/x0.png").unlink(),
            "ade20k_linear",
            r"x0.png: no such file, the mask",
        ),
        (lambda top: (top / "nyu_test.txt").write_text("alone\n"), "nyu_linear1", r"nyu_test.txt:1: expected"),
        (
            lambda top: (top / "nyu_test.txt").write_text("a.png b.png\n"),
            "nyu_linear1",
            r"nyu_test.txt:1: no file a.png",
        ),
        (lambda top: (top / "sync/den/sync_depth_0.png").unlink(), "nyu_linear1", r"nyu_train.txt:1: no file .*depth"),
    ],
)
def test_what_is_missing_of_a_layout_is_named(break_it: Any, layout: str, said: str, tmp_path: Path) -> None:
    asked = job(tmp_path, layout)
    break_it(asked.place)
    with pytest.raises(UserError, match=said):
        read_examples(asked.protocol.pin("small"), asked.place)


def test_frames_of_both_splits_may_have_the_same_path(tmp_path: Path) -> None:
    asked = job(tmp_path, "nyu_linear1")
    train, test = asked.examples
    assert (
        "/sync/den/rgb_0.png" in train[0].picture.path and "/official_splits/test/den/rgb_0.png" in test[0].picture.path
    )
    data = asked.protocol.pin("small")
    both = data.model_copy(update={"roots": ["sync", "official_splits/test"], "test_roots": None})
    with pytest.raises(UserError, match=r"nyu_train.txt:1: den/rgb_0.png is under .*sync and under .*official_splits"):
        read_examples(both, asked.place)
    with pytest.raises(UserError, match=r"nyu_test.txt/den/rgb_0.png: it is the training image nyu_train.txt/den/rgb"):
        read_examples(data.model_copy(update={"test_roots": ["sync"]}), asked.place)


def test_the_miniature_is_tested_on_other_images_than_it_is_trained_on(tmp_path: Path) -> None:
    place = build(tmp_path / "data")
    for name in ("in1k_linear", "ade20k_linear", "nyu_linear1"):
        data = load_protocol(name).pin("mini")
        train, test = read_examples(data, place / Path(str(data.folder)).name)
        learnt = {sha256_file(Path(one.picture.path)) for one in train}
        assert len(learnt) == len(train), name
        assert not learnt & {sha256_file(Path(one.picture.path)) for one in test}, name


def test_parquet_is_read_as_folders_are(tmp_path: Path) -> None:
    made_probes.imagenet_parquet(tmp_path / "hub")
    data = load_protocol("in1k_knn").pin("hub").model_copy(
        update={"classes": 3, "train_rows": 12, "test_rows": 12}
    )  # fmt: skip
    train, test = read_examples(data, tmp_path / "hub")
    assert [one.label for one in train] == [0, 1, 2] * 4 and train.classes == ("0", "1", "2")
    assert train[7].image().size == (36, 30) and len({one.id for one in test}) == 12
    with pytest.raises(UserError, match="12 images, the yaml says 13"):
        read_examples(data.model_copy(update={"test_rows": 13}), tmp_path / "hub")
    with pytest.raises(UserError, match="label 2, the yaml says 2 classes"):
        read_examples(data.model_copy(update={"classes": 2}), tmp_path / "hub")


def test_brought_data_are_locked_and_held_to_it(tmp_path: Path) -> None:
    made_probes.nyu(tmp_path / "nyu")
    protocol = load_protocol("nyu_linear1")
    data = protocol.data["folders"].model_copy(update={"train_rows": 6, "test_rows": 5})
    small = protocol.model_copy(update={"data": {"folders": data}})
    with pytest.raises(UserError, match="are not here; `mllm-eval data --probe nyu_linear1 --data folders --from"):
        locked_place(small, "folders")
    lock = lock_data(small, "folders", tmp_path / "nyu")
    assert (lock.train, lock.test, lock.files) == (6, 5, 22) and locked_place(small, "folders") == tmp_path / "nyu"
    assert lock_data(small, "folders", offline=True) == lock
    # Earlier versions wrote only the folder beside a lock.
    write_json(lock_path(data).with_suffix(".place"), {"folder": str(tmp_path / "nyu")})
    assert locked_place(small, "folders") == tmp_path / "nyu" and lock_data(small, "folders", offline=True) == lock
    depth = tmp_path / "nyu/sync/den/sync_depth_1.png"
    depth.write_bytes(depth.read_bytes() + b"x")
    with pytest.raises(UserError, match="of another size than in the lock"):
        locked_place(small, "folders")
    with pytest.raises(UserError, match="are not those of the lock"):
        lock_data(small, "folders", offline=True)
    lock_path(data).unlink()
    with pytest.raises(UserError, match="no lock yet"):
        lock_data(small, "folders", offline=True)


def test_an_archive_is_fetched_unpacked_and_locked(tmp_path: Path) -> None:
    made_probes.ade20k(tmp_path / "top" / "ADEChallengeData2016")
    archive = shutil.make_archive(str(tmp_path / "ADE"), "zip", tmp_path / "top")
    protocol = load_protocol("ade20k_ms")
    data = protocol.data["hub"].model_copy(update={"url": f"file://{archive}", "train_rows": 6, "test_rows": 5})
    small = protocol.model_copy(update={"data": {"hub": data}})
    lock = lock_data(small, "hub")
    assert (lock.train, lock.test) == (6, 5) and lock_data(small, "hub") == lock
    assert read_examples(data, locked_place(small, "hub"))[1][0].values().shape == (32, 40)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kind: linaer", r"mine.yaml:3: kind: 'linaer' is no kind of probe\. Did you mean 'linear'"),
        ("kind: knn\nneigbours: [3]", r"mine.yaml:4: unknown key 'neigbours'\. Did you mean 'neighbours'"),
        ("kind: knn\ntemperature: cold", r"mine.yaml:4: temperature: .*'cold'"),
        ("kind: knn\ndata: {mini: {layout: imagnet, train: a, test: b, folder: c}}", r"mine.yaml:4: data.mini.layout"),
    ],
)
def test_a_mistake_in_a_protocol_is_named(
    text: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "configs" / "probes"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text(f"base: in1k_knn\nname: mine\n{text}\n")
    monkeypatch.setenv("MLLM_EVAL_PATH", str(tmp_path))
    with pytest.raises(UserError, match=said):
        load_protocol("mine")


def test_a_probe_of_ones_own_builds_on_a_shipped_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "configs" / "probes"
    folder.mkdir(parents=True)
    (folder / "near.yaml").write_text("base: in1k_knn\nname: near\nneighbours: [5]\n")
    monkeypatch.setenv("MLLM_EVAL_PATH", str(tmp_path))
    own, shipped = load_protocol("near"), load_protocol("in1k_knn")
    assert own.hash != shipped.hash and own.data == shipped.data
    with pytest.raises(UserError, match=r"has no data 'mimi'.*Did you mean 'mini'"):
        own.on("mimi")
    with pytest.raises(UserError, match=r"unknown probe 'in1k_kn'\. Did you mean 'in1k_knn'"):
        load_protocol("in1k_kn")


# ---- the command ----
def test_the_command_prints_the_table_or_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mllm_eval.cli.app import app

    encoder = make_encoder(tmp_path / "encoder")
    facts = encoder.model_dump(mode="json", exclude_none=True)
    (tmp_path / "configs/encoders").mkdir(parents=True)
    (tmp_path / "configs/probes").mkdir()
    (tmp_path / "configs/encoders/tiny-dinov2.yaml").write_text(json.dumps(facts))
    place = made_probes.imagenet(tmp_path / "in1k")
    data = {"layout": "imagenet", "folder": str(place), "train": "train", "test": "val", "beside": "mini"}
    mine = {"base": "in1k_knn", "name": "near", "neighbours": [1, 3], "data": {"mini": data}}
    (tmp_path / "configs/probes/near.yaml").write_text(json.dumps(mine))
    monkeypatch.setenv("MLLM_EVAL_PATH", str(tmp_path))
    call = CliRunner()
    done = call.invoke(app, ["probe", "tiny-dinov2", "--probe", "near", "--json"])
    assert done.exit_code == 0, done.output
    printed = json.loads(next(line for line in done.output.splitlines() if line.startswith("{")))
    assert printed["probe"] == "near" and printed["n"] == 15 and Path(printed["folder"]).is_dir()
    shown = call.invoke(app, ["probe", "tiny-dinov2", "--probe", "near", "--layers", "all"])
    assert shown.exit_code == 0 and "serves it best" in re.sub(r"\s+", " ", shown.output)
    assert (tmp_path / "results/tables/probes.all.csv").is_file()
    assert (tmp_path / "results/tables/probes.all.svg").read_text().startswith("<?xml")
    for words, said in (
        (["--probe", "nera"], "Did you mean 'near'"),
        (["--probe", "near", "--layers", "lats"], "Did you mean 'last'"),
        (["--probe", "in1k_knn", "--data", "hub"], "mllm-eval data --probe in1k_knn --data hub"),
    ):
        wrong = call.invoke(app, ["probe", "tiny-dinov2", *words])
        assert wrong.exit_code == 2 and said in wrong.output, wrong.output


def test_a_part_of_many_images_is_held_out() -> None:
    from mllm_eval.data.images import FilePicture
    from mllm_eval.probes.examples import Example, Examples
    from mllm_eval.shelf import Shelf

    few, many = (
        Examples(Shelf(Example(f"x{at}", FilePicture("", f"{at}.png", "x"), at % 7) for at in range(count)), "abcdefg")
        for count in (10, 20_000)
    )
    assert many[19_999].label == 19_999 % 7 and len(few.split(0.1, 0)[1]) == 1
    learnt, held = many.split(0.1, 0)
    assert len(held) == 2000 and not {one.id for one in held} & {one.id for one in learnt[:100]}


def test_a_damaged_result_is_measured_again(tmp_path: Path) -> None:
    asked = job(tmp_path, "in1k_knn")
    found: Probed = measure(asked)
    (asked.folder / "images.npz").unlink()
    again = measure(asked)
    assert again.readings == found.readings and (asked.folder / "images.npz").is_file()
    (asked.folder / "images.npz").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"delete .* and probe again"):
        read_sums(asked.folder)

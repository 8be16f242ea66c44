"""Stores share a bound, several processes write at once, what is read is not evicted, and what nobody reads goes."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from places import TESTS
from tiny_models import make_conversations, make_encoder, make_image, make_llm, make_recipe, random_features
from typer.testing import CliRunner

from mllm_eval.adapters import load_encoder_model
from mllm_eval.catalog import Recipe
from mllm_eval.cli.app import app
from mllm_eval.data.samples import ImageRef
from mllm_eval.environment import parse_bytes
from mllm_eval.errors import UserError
from mllm_eval.features import Features, FeatureStore, eviction
from mllm_eval.features.eviction import available, bound, make_room, shard_files, taken
from mllm_eval.features.extraction import BATCH
from mllm_eval.features.storeshards import HEADER, index_of
from mllm_eval.features.upkeep import collect
from mllm_eval.features.verifying import verify as verify_store
from mllm_eval.plan import PlanOptions, make_plan
from mllm_eval.plan.featurespace import keeping
from mllm_eval.run import Run

ROW = 13 * 5 * 4


def names(start: int, stop: int) -> list[str]:
    return [hashlib.sha256(str(index).encode()).hexdigest() for index in range(start, stop)]


def made(root: Path, name: str, start: int = 0, stop: int = 10, used: float | None = None) -> FeatureStore:
    """A store with one shard of random rows, last used when `used` says."""
    store = FeatureStore(root / name, (3, 4), 5)
    assert store.put_many(names(start, stop), *random_features(stop - start))
    if used is not None:
        store.close()
        for shard in (root / name).glob("*.safetensors"):
            os.utime(shard, (used, used))
    return store


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets the bound."""
    return lambda size: monkeypatch.setenv("MLLM_EVAL_FEATURES_BYTES", str(size))


@pytest.fixture(autouse=True)
def _own_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: Any) -> None:
    monkeypatch.setenv("MLLM_EVAL_RESULTS", str(tmp_path / "results"))
    room("1TB")


# ---- the bound ----
def test_a_bound_is_written_for_people() -> None:
    sizes = {"0": 0, "200GB": 200 * 10**9, "1.5 TB": 1500 * 10**9, "500e9": 500 * 10**9, "7k": 7000, "12": 12}
    assert {text: parse_bytes(text, "SIZE") for text in sizes} == sizes
    with pytest.raises(UserError, match="'much'"):
        parse_bytes("much", "SIZE")


def test_without_a_bound_features_take_half_of_what_is_free_without_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLLM_EVAL_FEATURES_BYTES")
    disk = SimpleNamespace(free=1000 * ROW)
    monkeypatch.setattr(eviction.shutil, "disk_usage", lambda folder: disk)
    before = bound(tmp_path)
    made(tmp_path, "a")
    disk.free -= taken(tmp_path)
    assert bound(tmp_path) == before == 500 * ROW


def test_what_was_used_longest_ago_goes_first_whatever_store_it_is_in(tmp_path: Path, room: Any) -> None:
    for name, used in (("a", 300.0), ("b", 100.0), ("c", 200.0)):
        made(tmp_path, name, used=used)
    size = taken(tmp_path) // 3
    room(3 * size)
    made(tmp_path, "d")
    assert sorted(shard.path.parent.name for shard in shard_files(tmp_path)) == ["a", "c", "d"]
    room(2 * size)
    # Reading is use: `c` is older on the disk.
    assert not FeatureStore(tmp_path / "c", (3, 4), 5).missing(names(0, 10))
    assert make_room(tmp_path, 0)
    assert sorted(shard.path.parent.name for shard in shard_files(tmp_path)) == ["c", "d"]
    assert taken(tmp_path) <= bound(tmp_path)


def test_what_is_read_or_written_stays_until_its_reader_has_gone(tmp_path: Path, room: Any) -> None:
    writer = made(tmp_path, "a", 0, 10)
    made(tmp_path, "a", 10, 20, used=1.0)
    reader = FeatureStore(tmp_path / "a", (3, 4), 5)
    room(taken(tmp_path))
    assert reader.missing(names(10, 21)) == names(20, 21)
    other = FeatureStore(tmp_path / "b", (3, 4), 5)
    assert available(tmp_path) == 0
    assert not other.put_many(names(0, 5), *random_features(5))
    assert torch.equal(reader.get_many(names(10, 20)), random_features(10)[0])
    reader.close()
    assert other.put_many(names(0, 5), *random_features(5))
    assert writer.missing(names(0, 20)) == names(10, 20)
    assert reader.missing(names(10, 11)) == names(10, 11)


def test_nothing_is_evicted_for_what_has_no_room_anyway(tmp_path: Path, room: Any) -> None:
    made(tmp_path, "a", used=1.0)
    room(taken(tmp_path) + ROW)
    store = FeatureStore(tmp_path / "b", (3, 4), 5)
    assert not store.put_many(names(0, 100), *random_features(100))
    assert len(FeatureStore(tmp_path / "a", (3, 4), 5)) == 10


# ---- processes ----
def process(code: str, *words: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, words)]
    paths = os.pathsep.join([str(TESTS), *sys.path])
    return subprocess.Popen(command, stdin=-1, stdout=-1, text=True, env={**os.environ, "PYTHONPATH": paths})


WRITER = """
    import sys, hashlib, torch
    from mllm_eval.features.store import FeatureStore
    from pathlib import Path
    first, last = int(sys.argv[2]), int(sys.argv[3])
    store = FeatureStore(Path(sys.argv[1]), (3, 4), 5)
    print("ready", flush=True)
    sys.stdin.readline()
    for at in range(first, last):
        name = hashlib.sha256(str(at).encode()).hexdigest()
        store.put_rows([name], torch.full((1, 13, 5), float(at)))
        print(at, flush=True)
    sys.stdin.readline()
"""


@pytest.mark.slow
def test_processes_write_to_one_store_at_once_and_to_one_image(tmp_path: Path) -> None:
    spans = [(0, 40), (20, 60)]
    writers = [process(WRITER, tmp_path / "a", *span) for span in spans]
    for one in writers:
        assert one.stdout and one.stdout.readline() == "ready\n"
    reader = FeatureStore(tmp_path / "a", (3, 4), 5)
    for one in writers:
        one.communicate("go\n\n")
        assert one.returncode == 0
    assert reader.missing(names(0, 60)) == names(0, 60)
    reader.refresh()
    assert not reader.missing(names(0, 60)) and len(reader) == 60
    rows, absent = reader.rows(names(0, 60))
    assert not absent and torch.equal(rows, torch.arange(60.0)[:, None, None].expand(60, 13, 5))
    # Two shards, neither of which the other process touched.
    assert sorted(path.stat().st_size for path in (tmp_path / "a").glob("*.safetensors")) == [HEADER + 40 * ROW] * 2


@pytest.mark.slow
def test_a_killed_process_holds_nothing_and_what_it_wrote_stays(tmp_path: Path, room: Any) -> None:
    writer = process(WRITER, tmp_path / "a", 0, 10)
    assert writer.stdin and writer.stdout
    writer.stdin.write("go\n")
    writer.stdin.flush()
    while writer.stdout.readline() != "9\n":
        pass
    room(taken(tmp_path))
    assert available(tmp_path) == 0
    writer.kill()
    writer.communicate()
    assert len(FeatureStore(tmp_path / "a", (3, 4), 5)) == 10
    assert available(tmp_path) == bound(tmp_path)
    made(tmp_path, "b")
    assert not list((tmp_path / "a").glob("*.index"))


# ---- where there is no room ----
def refs(count: int) -> list[ImageRef]:
    def ref(index: int) -> ImageRef:
        return ImageRef(hashlib.sha256(make_image(index).tobytes()).hexdigest(), lambda: make_image(index))

    return [ref(index) for index in range(count)]


def test_images_without_room_are_encoded_when_asked_for_to_the_same_bits(
    tmp_path: Path, room: Any, caplog: pytest.LogCaptureFixture
) -> None:
    encoder = make_encoder(tmp_path / "weights")
    model = load_encoder_model(encoder)
    whole = Features(FeatureStore.of(encoder, "d", root=tmp_path / "whole"), lambda: model)
    expected = torch.stack(whole(refs(70)))
    small = Features(FeatureStore.of(encoder, "d", root=tmp_path / "small"), lambda: model)
    room(40 * small.store.image_bytes)
    assert small.fill(refs(70)) == 40
    assert len(small.store) == 40 and taken(tmp_path / "small") <= bound(tmp_path / "small") + HEADER
    batches: list[int] = []
    forward = model.forward
    model.forward = lambda *words: (batches.append(len(words[0])), forward(*words))[1]  # type: ignore[method-assign]
    for start in range(0, 70, 5):
        assert torch.equal(torch.stack(small(refs(70)[start : start + 5])), expected[start : start + 5])
    # Each of the thirty once, in whole batches, though five were asked for at a time.
    assert batches == [BATCH] * -(-30 // BATCH)
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 1 and "30 of 70 images have no room" in told[0] and "MLLM_EVAL_FEATURES_BYTES" in told[0]


def test_no_room_at_all_stores_nothing(tmp_path: Path, room: Any) -> None:
    encoder = make_encoder(tmp_path / "weights")
    model = load_encoder_model(encoder)
    expected = torch.stack(Features(FeatureStore.of(encoder, "d", root=tmp_path / "a"), lambda: model)(refs(3)))
    room(0)
    none = Features(FeatureStore.of(encoder, "d", root=tmp_path / "b"), lambda: model)
    assert torch.equal(torch.stack(none(refs(3))), expected)
    assert taken(tmp_path / "b") == 0


def wipe(shard: Path) -> None:
    """Rows of zeros, as a disk may give them; the file stays the same one, for those who have it open."""
    with shard.open("r+b") as file:
        file.seek(HEADER)
        file.write(bytes(shard.stat().st_size - HEADER))


def test_a_damaged_row_is_encoded_again_where_it_is_read(tmp_path: Path) -> None:
    encoder = make_encoder(tmp_path / "weights")
    source = Features(FeatureStore.of(encoder, "d", root=tmp_path), lambda: load_encoder_model(encoder))
    expected = torch.stack(source(refs(4)))
    (path,) = source.store.folder.glob("*.safetensors")
    wipe(path)
    again = Features(FeatureStore.of(encoder, "d", root=tmp_path), lambda: load_encoder_model(encoder))
    assert torch.equal(torch.stack(again(refs(4))), expected)
    assert torch.equal(FeatureStore.of(encoder, "d", root=tmp_path).get_many([r.sha256 for r in refs(4)]), expected)
    wipe(sorted(source.store.folder.glob("*.safetensors"))[-1])
    # A reader that has no images itself, as training's batches have none, is given them.
    mended = Features(FeatureStore.of(encoder, "d", root=tmp_path), lambda: load_encoder_model(encoder))
    by_name = {ref.sha256: ref for ref in refs(4)}
    mended.mends(lambda lost: [by_name[name] for name in lost])
    assert torch.equal(mended.store.get_many([*by_name]), expected)


@pytest.mark.slow
def test_a_stage_whose_features_have_no_room_trains_with_the_encoder_in_its_steps(
    tmp_path: Path, room: Any, caplog: pytest.LogCaptureFixture
) -> None:
    from mllm_eval.train import train

    data, images = make_conversations(tmp_path)
    recipe = make_recipe(data, images, standardize=False, stage1={"steps": 2}, stage2={"steps": 2})
    run = Run(make_encoder(tmp_path / "encoder"), recipe, make_llm(tmp_path / "llm"), seed=3)
    room(500)
    with caplog.at_level(logging.WARNING):
        train(run)
    told = [record.getMessage() for record in caplog.records if "encoder runs in every step" in record.getMessage()]
    assert [line.split(":")[0] for line in told] == ["stage 1", "stage 2"]
    assert taken(tmp_path / "results" / "features") == 0 and run.checkpoint.is_dir()
    note = json.loads((run.stage_dir(2) / "features.json").read_text())
    assert note["features"] == "live" and note["bytes_left"] == 500 and note["bytes_needed"] > 500


# ---- who shares what ----
def test_llm_seed_and_recipe_do_not_decide_which_features_are_read(tmp_path: Path) -> None:
    data, images = make_conversations(tmp_path)
    encoder, first, second = make_encoder(tmp_path / "e"), make_llm(tmp_path / "a"), make_llm(tmp_path / "b", 32)

    def folder(llm: Any, seed: int, **changes: Any) -> Path:
        return Features.of(Run(encoder, make_recipe(data, images, **changes), llm, seed)).store.folder

    plain = folder(first, 1)
    others = {"tokens": 4, "template": "vicuna_v1", "standardize": False, "stage2": {"lr": 1.0, "steps": 1}}
    assert {folder(second, 1), folder(first, 2), folder(second, 9, **others)} == {plain}
    assert folder(first, 1, features_dtype="float32") == plain
    rounded = {folder(first, 1, dtype=made, features_dtype=kept) for made in ("float32", "bfloat16")
               for kept in ("float16", "bfloat16")}  # fmt: skip
    assert len({plain, *rounded}) == 5


def test_a_recipe_without_a_dtype_of_features_keeps_its_hash(tmp_path: Path) -> None:
    recipe = make_recipe(*make_conversations(tmp_path))
    assert "features_dtype" not in recipe.identity()
    assert Recipe(**{**recipe.model_dump(), "features_dtype": "float16"}).hash != recipe.hash


# ---- looking after stores ----
def call(*words: str) -> Any:
    return CliRunner().invoke(app, ["features", *words])


@pytest.fixture
def stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stores of an encoder of the catalog, of one that is gone, and their root."""
    (tmp_path / "configs" / "encoders").mkdir(parents=True)
    encoder = make_encoder(tmp_path / "weights", name="known")
    (tmp_path / "configs" / "encoders" / "known.yaml").write_text(json.dumps(encoder.model_dump(mode="json")))
    monkeypatch.setenv("MLLM_EVAL_PATH", str(tmp_path))
    from mllm_eval.features import upkeep

    upkeep.known_encoders.cache_clear()
    for name, digest in (("known", encoder.weights.digest()), ("gone", "0" * 64)):
        store = FeatureStore.of(encoder.model_copy(update={"name": name}), digest)
        patches, summaries = torch.randn(6, 4, 4, 32), torch.randn(6, 32)
        store.put_many(names(0, 4), patches[:4], summaries[:4])
        store.close()
        store.put_many(names(4, 6), patches[4:], summaries[4:])
        store.close()
    return tmp_path / "results" / "features"


@pytest.mark.slow
def test_ls_tells_what_there_is_and_what_nobody_will_read(stores: Path) -> None:
    found = {one["encoder"]: one for one in map(json.loads, call("ls", "--json").stdout.splitlines())}
    assert found["known"]["owners"] == ["known"] and not found["known"]["orphaned"]
    assert found["gone"]["owners"] == [] and found["gone"]["orphaned"]
    assert found["gone"]["images"] == 6 and found["gone"]["bytes"] >= 6 * 17 * 32 * 4
    shown = call("ls").output
    assert "known" in shown and "orphan" in shown and "of at most" in shown
    assert "gone" not in call("ls", "known", "--json").output


@pytest.mark.slow
def test_an_unknown_store_is_answered_with_the_nearest_name(stores: Path) -> None:
    done = call("verify", "knwon")
    assert done.exit_code == 2 and "Did you mean 'known'" in done.output


@pytest.mark.slow
def test_verify_names_what_is_damaged_and_drops_it(stores: Path) -> None:
    assert call("verify").exit_code == 0
    store = next(path.parent for path in stores.glob("*/meta.json") if '"known"' in path.read_text())
    first, second = sorted(store.glob("*.safetensors"))
    content = bytearray(first.read_bytes())
    content[-1] ^= 1
    first.write_bytes(content)
    lines = bytearray(index_of(second).read_bytes())
    lines[81] ^= 1
    index_of(second).write_bytes(lines)
    before = [shard.stat().st_mtime_ns for shard in (first, second)]
    done = call("verify", "known")
    told = [
        line for line in done.output.splitlines() if "is damaged, dropped" in line or "are damaged, left out" in line
    ]
    lost = [json.loads(line) for line in call("verify", "known", "--json").stdout.splitlines()]
    assert done.exit_code == 1 and len(told) == 2 and [one["row"] for one in lost] == [-1]
    images, last = (names(0, 4), 3) if len(index_of(first).read_bytes()) == 4 * 82 else (names(4, 6), 1)
    assert any(f"row {last}: image {images[last]} is" in line for line in told)
    assert [shard.stat().st_mtime_ns for shard in (first, second)] == before


def test_verify_finds_a_line_that_names_another_image(stores: Path) -> None:
    path = sorted(stores.glob("*/*.index"))[0]
    lines = bytearray(path.read_bytes())
    lines[3:4] = b"0" if lines[3:4] != b"0" else b"1"
    path.write_bytes(lines)
    done = call("verify")
    assert done.exit_code == 1 and f"row 0: image {lines[:64].decode()} is damaged, dropped" in done.output


@pytest.mark.slow
def test_gc_removes_what_crashes_and_old_encoders_left_and_nothing_else(stores: Path) -> None:
    known = next(path.parent for path in stores.glob("*/meta.json") if '"known"' in path.read_text())
    encoder_row = 17 * 32 * 4
    os.truncate(sorted(known.glob("*.safetensors"))[0], HEADER + 100 * encoder_row)
    (known / "000000-old.npy").write_bytes(bytes(500))
    (known / "00-older.rows").write_bytes(bytes(700))
    (known / "00-older.index").write_bytes(b"mllmfea1" + bytes(72))
    (known / "cut.rows").write_bytes(bytes(300))
    before = {path: path.read_bytes() for path in stores.rglob("*") if path.is_file()}
    said = call("gc", "--dry-run").output
    assert all(word in said for word in ("crash", "neither the catalog", "small shards"))
    assert before == {path: path.read_bytes() for path in stores.rglob("*") if path.is_file()}
    # Nobody can be asked here: the orphan stays.
    done = call("gc")
    assert done.exit_code == 0 and "orphaned stores stay" in done.output
    assert len(list(stores.glob("*/meta.json"))) == 2
    assert {path.suffix for path in known.iterdir()} == {".json", ".index", ".safetensors"}
    assert [path.stat().st_size for path in known.glob("*.safetensors")] == [HEADER + 6 * encoder_row]
    assert call("gc", "--yes").exit_code == 0
    assert [path.parent for path in stores.glob("*/meta.json")] == [known]
    assert "nothing to remove" in call("gc").output
    opened = FeatureStore(known, (4, 4), 32)
    assert not opened.missing(names(0, 6)) and len(opened.get_many(names(0, 6))) == 6


def test_gc_leaves_alone_what_is_read_and_readers_find_what_it_moved(tmp_path: Path) -> None:
    root = tmp_path / "features"
    for start in (0, 4, 2):
        made(root, "a", start, start + 4).close()
    held, late = (FeatureStore(root / "a", (3, 4), 5) for _ in range(2))
    assert not held.missing(names(0, 1))
    kinds = {waste.kind: waste.count for waste in collect(root, remove_them=True)}
    assert kinds["superseded"] == 4
    assert not held.missing(names(0, 8)) and not late.missing(names(0, 8))
    assert held.rows(names(0, 8))[1] == late.rows(names(0, 8))[1] == []
    held.close()
    late.close()
    list(collect(root, remove_them=True))
    assert len(list((root / "a").glob("*.safetensors"))) == 1 and len(FeatureStore(root / "a", (3, 4), 5)) == 8


def test_verify_reads_a_store_that_knows_no_encoder(tmp_path: Path) -> None:
    from mllm_eval.features.upkeep import read_stores

    made(tmp_path, "a")
    (store,) = read_stores(tmp_path)
    assert store.owners is None and not store.orphaned and store.images == 10
    assert list(verify_store(tmp_path, store)) == []


# ---- the plan ----
def test_a_plan_keeps_stages_whole_and_of_the_evaluation_what_has_room() -> None:
    images = {"stage 1": 100, "stage 2": 300, "evaluation": 80}
    shown = {"stage 1": 100, "stage 2": 600, "evaluation": 80}
    live = {"stage 1": False, "stage 2": False}
    found = keeping(10, images, shown, live, bound=1500)
    assert [(one.kept, one.first) for one in found.values()] == [(100, 100), (0, 600), (50, 80)]
    assert [one.again for one in found.values()] == [0, 600, 30]
    found = keeping(10, images, shown, {**live, "stage 1": True}, bound=10**6)
    assert [(one.kept, one.again) for one in found.values()] == [(0, 100), (300, 0), (80, 0)]
    assert [one.live for one in found.values()] == [True, False, False]


@pytest.mark.slow
def test_plan_says_what_has_no_room(room: Any) -> None:
    plain = make_plan("mini-dino", options=PlanOptions(gpus="1xA100", rows=(6400, 6400)))
    room("1MB")
    small = make_plan("mini-dino", options=PlanOptions(gpus="1xA100", rows=(6400, 6400)))
    assert plain.steps[0].note == "each image once, ever" and "in every run" in small.steps[0].note
    said = (
        CliRunner().invoke(app, ["plan", "mini-dino", "--gpus", "1xA100", "--rows1", "6400", "--rows2", "6400"]).output
    )
    assert "no room for 6,400 images: 6,400 encoded in every run" in said

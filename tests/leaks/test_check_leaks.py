"""Planted copies are found, others are not; a killed check goes on; what can't be read is counted and named."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageOps
from soft_pictures import KINDS, cropped, encoded, picture, recompressed, resized, tarred, training_set, written
from tiny_models import make_recipe
from typer.testing import CliRunner

from mllm_eval.catalog import load_benchmark, load_encoder
from mllm_eval.cli.app import app
from mllm_eval.data.samples import ImageRef, Sample
from mllm_eval.errors import UserError
from mllm_eval.leaks import check, corpora, hashing, trainingsets
from mllm_eval.leaks.check import find_leaks
from mllm_eval.leaks.corpora import Folder, state_of
from mllm_eval.leaks.findings import Findings, findings_of
from mllm_eval.leaks.hashes import VIEWS, hash_of, hashes_of_views
from mllm_eval.leaks.questions import Questions, normalised
from mllm_eval.pipeline import sources
from mllm_eval.pipeline.leakflow import check_leaks, check_overlap
from mllm_eval.progress import unheard

PICTURES = 24


def sample(number: int) -> Sample:
    image = picture(number)
    ref = ImageRef(f"{number:064x}", lambda: image.copy())
    question = f"How many grains of sand lie on beach number {number}?"
    return Sample("gqa", f"q{number}", (ref,), f"{question}\nOne word.", "3", f"g{number}", f"c{number}",
                  {"question": question})  # fmt: skip


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLLM_EVAL_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("MLLM_EVAL_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(check, "load_samples", lambda *_: [sample(number) for number in range(PICTURES)])
    own = sources.MadeFolder(make=f"{__name__}:render", whole="VERSION")
    monkeypatch.setattr(sources, "sources", lambda: {"miniature": own})
    return tmp_path


def render(data: Path, _: object) -> None:
    """Stands for the renderer of the miniature: a training set, and the folder of a benchmark."""
    (data / "miniature" / "GQA").mkdir(parents=True)
    training_set(data / "miniature", {f"own{number}.png": picture(number) for number in range(3)})
    (data / "miniature" / "VERSION").touch()


def plant(home: Path, copies: dict[str, Image.Image], others: int = 20, asked: tuple[int, ...] = ()) -> Path:
    """A training set of copies and other pictures; rows of `asked` numbers ask that sample's question."""
    shown = {**copies, **{f"other{number}.png": picture(1000 + number) for number in range(others)}}
    questions = [f"<image>\nLook. HOW many grains of sand, lie on beach number {number}!" for number in asked]
    return training_set(home, shown, {text: next(iter(copies), "other0.png") for text in questions})


def looked(home: Path, path: Path | None = None) -> Findings:
    source = make_recipe(path, home / "images") if path else home / "images"
    return find_leaks(source, [load_benchmark("gqa")], "mini", load_encoder("mini-dino"))


@pytest.mark.parametrize("kind", KINDS)
def test_copies_are_within_the_radius_of_a_view_and_other_pictures_are_not(kind: str) -> None:
    views = [hashes_of_views(picture(number)) for number in range(12)]
    made = [hash_of(KINDS[kind](picture(number))) for number in range(12)]
    apart = np.array([[np.bitwise_count(own ^ np.uint64(bits)).min() for own in views] for bits in made])
    assert apart.diagonal().max() <= check.USUAL.radius
    assert apart[~np.eye(12, dtype=bool)].min() > check.USUAL.radius


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["recompressed", "resized", "cropped", "flipped"])
def test_planted_copies_are_found_and_nothing_else(kind: str, home: Path) -> None:
    copied = (0, 5, 11)
    path = plant(home, {f"copy{number}.png": KINDS[kind](picture(number)) for number in copied})
    found = looked(home, path)
    assert found.leaked("gqa") == {f"q{number}" for number in copied}
    pairs = {(pair["samples"][0], pair["image"]) for pair in found.pairs("gqa")}
    assert pairs == {(f"q{number}", f"copy{number}.png") for number in copied}
    for pair in found.pairs("gqa"):
        assert ("mirrored" in pair["view"]) == (kind == "flipped")
        assert pair["where"].startswith(f"{path}:")
        for key in ("picture_thumb", "image_thumb"):
            assert Image.open(found.folder / "thumbs" / pair[key]).size
    assert found.benchmarks["gqa"].leaked_pictures == 3


@pytest.mark.slow
def test_what_the_encoder_sees_as_different_is_no_copy_however_near_the_hashes_are(home: Path) -> None:
    # The hash is of grey: the same picture in other colours has the same hash.
    red, green, blue = picture(3).split()
    plant(home, {"turned.png": Image.merge("RGB", (ImageOps.invert(red), green, ImageOps.invert(blue)))}, others=5)
    grey = Image.merge("RGB", [picture(4).convert("L")] * 3)
    grey.save(home / "images" / "grey.png")
    found = looked(home).benchmarks["gqa"]
    assert found.candidates >= 1
    assert found.looked_at == found.candidates
    assert found.different == PICTURES * 8
    assert found.alarm == pytest.approx(1 / found.different)
    assert found.pairs < found.candidates


@pytest.mark.slow
def test_questions_are_found_word_for_word_and_together_with_their_picture(home: Path) -> None:
    path = plant(home, {"copy7.png": picture(7)}, asked=(7, 9))
    found = looked(home, path)
    assert found.leaked("gqa", "pictures") == {"q7"}
    assert found.leaked("gqa", "questions") == {"q7", "q9"}
    assert found.leaked("gqa", "both") == {"q7"}
    assert found.leaked("gqa", "either") == {"q7", "q9"}
    rows = {row["question"]: row for row in found.questions("gqa")}
    assert set(rows) == {f"how many grains of sand lie on beach number {number}" for number in (7, 9)}
    assert rows["how many grains of sand lie on beach number 9"]["where"] == f"{path}:23"
    assert found.benchmarks["gqa"].standing == 2


@pytest.mark.parametrize(
    ("text", "stands"),
    [
        ("What color is the car", True),
        ("Look: what COLOR is  the\ncar? Say it.", True),
        ("<image 1> What color is the \uff43\uff41\uff52?", True),
        ("What color is the carpet?", False),
        ("What color the car is", False),
        ("color is the car", False),
    ],
)
def test_a_question_stands_as_whole_words(text: str, stands: bool) -> None:
    asked = Questions(["What color is the car?", "Why?", ""])
    assert asked.texts == ["what color is the car", "why"]
    assert asked.found_in([text]) == ({0} if stands else set())
    # Two texts are not one.
    assert asked.found_in(["What color is", "the car?"]) == set()
    assert normalised("(A) 3.5 — Äpfel_2") == "a 3 5 äpfel 2"


@pytest.mark.slow
def test_a_second_look_computes_nothing_and_another_question_is_looked_for_again(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = plant(home, {"copy2.png": resized(picture(2))})
    first = looked(home, path)

    def refuse(*_: Any) -> Any:
        raise AssertionError("was computed already")

    monkeypatch.setattr(hashing, "hash_of", refuse)
    monkeypatch.setattr(hashing, "hashes_of_views", refuse)
    monkeypatch.setattr(check, "confirm", refuse)
    assert looked(home, path).benchmarks == first.benchmarks
    assert findings_of(make_recipe(path, home / "images"), "mini") == first
    monkeypatch.undo()
    monkeypatch.setenv("MLLM_EVAL_RESULTS", str(home / "results"))
    monkeypatch.setattr(check, "load_samples", lambda *_: [sample(number) for number in range(2, PICTURES)])
    monkeypatch.setattr(hashing, "hash_of", refuse)
    assert looked(home, path).benchmarks["gqa"].samples == PICTURES - 2


@pytest.mark.slow
def test_a_killed_check_goes_on_where_it_was_and_finds_the_same(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for room in (corpora, trainingsets):
        monkeypatch.setattr(room, "PIECE", 4)
    monkeypatch.setattr(trainingsets, "ROWS", 5)
    path = plant(home, {f"copy{number}.png": recompressed(picture(number)) for number in (1, 8)}, asked=(1,))
    whole = looked(home, path)
    kept = {at.name: at.read_bytes() for at in whole.folder.iterdir() if at.is_file()}
    monkeypatch.setenv("MLLM_EVAL_RESULTS", str(home / "again"))
    hashed, count = hashing.hash_of, 0

    def killed(image: Image.Image) -> int:
        nonlocal count
        count += 1
        if count > 10:
            raise KeyboardInterrupt
        return hashed(image)

    monkeypatch.setattr(hashing, "hash_of", killed)
    with pytest.raises(KeyboardInterrupt):
        looked(home, path)
    done = len(list((home / "again").rglob("hashes/**/*.npz")))
    assert 0 < done < 6
    count = -1000
    again = looked(home, path)
    assert count + 1000 == 22 - 4 * done
    assert {at.name: at.read_bytes() for at in again.folder.iterdir() if at.is_file()} == kept


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["recipe", "files", "tar", "parquet"])
def test_an_image_that_was_repaired_or_replaced_is_hashed_again_and_no_other_piece(
    kind: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for room in (corpora, trainingsets):
        monkeypatch.setattr(room, "PIECE", 4)
    path = plant(home, {"copy5.png": picture(5)}, others=7)
    files = sorted((home / "images").iterdir())
    source: Any = make_recipe(path, home / "images") if kind == "recipe" else home / "images"
    written(files[1], b"no picture")
    written(files[6], picture(500))
    if kind in ("tar", "parquet"):
        source = home / "shards"
        source.mkdir()

    def packed() -> None:
        for number, some in enumerate((files[:4], files[4:])):
            data = {file.name: file.read_bytes() for file in some}
            if kind == "tar":
                written(source / f"{number}.tar", tarred(data))
            elif kind == "parquet":
                out = io.BytesIO()
                pq.write_table(pa.table({"key": list(data), "jpg": list(data.values())}), out)
                written(source / f"{number}.parquet", out.getvalue())

    def found() -> Findings:
        return find_leaks(source, [load_benchmark("gqa")], "mini", load_encoder("mini-dino"))

    packed()
    first = found()
    assert (first.benchmarks["gqa"].broken_images, first.leaked("gqa")) == (1, {"q5"})
    thumbs = {at.name: at.read_bytes() for at in (first.folder / "thumbs").glob("c-*")}
    # Repaired with the same size and name; replaced by another benchmark picture's copy.
    written(files[1], picture(9))
    written(files[files.index(home / "images" / "copy5.png")], picture(3))
    packed()
    second = found()
    assert second.folder == first.folder
    assert (second.benchmarks["gqa"].broken_images, second.leaked("gqa")) == (0, {"q9", "q3"})
    shown = {pair["image_thumb"] for pair in second.pairs("gqa")}
    assert all((second.folder / "thumbs" / name).read_bytes() != thumbs.get(name) for name in shown)
    count, hashed = 0, hashing.hash_of

    def counted(image: Image.Image) -> int:
        nonlocal count
        count += 1
        return hashed(image)

    monkeypatch.setattr(hashing, "hash_of", counted)
    assert found().benchmarks == second.benchmarks
    assert count == 0
    written(files[7], picture(7))
    packed()
    assert found().leaked("gqa") == {"q9", "q3", "q7"}
    # Only the piece of the changed file; tars and tables are written anew here, both of them.
    assert count == (4 if kind in ("recipe", "files") else 8)


def test_the_state_of_a_piece_tells_a_change_by_each_of_its_facts(home: Path) -> None:
    path = home / "a.png"
    states = [state_of([path])]
    written(path, b"abc")
    states.append(state_of([path]))
    assert state_of([path]) == states[-1]
    for change in (
        lambda: written(path, b"abd"),
        lambda: (path.write_bytes(b"abde"), os.utime(path, ns=(5, 5))),
        lambda: path.chmod(0),
        lambda: path.rename(home / "b.png"),
    ):
        change()
        states.append(state_of([home / "b.png" if not path.exists() else path]))
    assert len(set(states)) == len(states)
    assert len(state_of([Path("a\0b")])) == 16


@pytest.mark.slow
def test_images_and_rows_that_cannot_be_read_are_counted_and_named(home: Path) -> None:
    path = plant(home, {"copy3.png": picture(3)}, others=6)
    (home / "images" / "other2.png").write_bytes(b"no picture")
    (home / "images" / "other4.png").unlink()
    with open(path, "a") as file:
        file.write("{broken\n")
    found = looked(home, path)
    one = found.benchmarks["gqa"]
    assert (one.images, one.broken_images, one.broken_rows) == (7, 2, 1)
    assert "other2.png" in one.broken_images_first[0]
    assert "No such file" in one.broken_images_first[1]
    assert f"{path}:8" in one.broken_rows_first[0]
    assert found.leaked("gqa") == {"q3"}


def shards(home: Path) -> Iterator[tuple[str, Path]]:
    """Three pictures as files, in tar shards (WebDataset), and as parquet in the layouts of img2dataset and the hub."""
    data = {"a": encoded(picture(100)), "b": encoded(cropped(picture(6))), "c": b"no picture"}
    files, tars, tables = home / "files" / "deep", home / "tars", home / "tables"
    for folder in (files, tars, tables):
        folder.mkdir(parents=True)
    for name, content in data.items():
        (files / f"{name}.png").write_bytes(content)
    (files / "notes.txt").write_text("no image")
    with tarfile.open(tars / "00000.tar", "w") as shard:
        for name, content in data.items():
            for ending, body in ((".png", content), (".txt", b"a caption")):
                member = tarfile.TarInfo(name + ending)
                member.size = len(body)
                shard.addfile(member, io.BytesIO(body))
    pq.write_table(pa.table({"key": list(data), "jpg": list(data.values())}), tables / "img2dataset.parquet",
                   row_group_size=2)  # fmt: skip
    yield from (("files", home / "files"), ("tar", tars), ("parquet", tables))
    hub = home / "hub.parquet"
    rows = [{"bytes": content, "path": None} for content in data.values()]
    pq.write_table(pa.table({"id": [1, 2, 3], "image": rows}), hub)
    yield "hub", hub


@pytest.mark.slow
def test_folders_shards_and_tables_of_images_are_looked_through(home: Path) -> None:
    for kind, place in shards(home):
        found = find_leaks(place, [load_benchmark("gqa")], "mini", load_encoder("mini-dino"))
        one = found.benchmarks["gqa"]
        assert (one.images, one.broken_images, one.standing) == (3, 1, None), kind
        assert found.leaked("gqa") == {"q6"}, kind
        assert findings_of(None, "mini", place.name) is not None
        for asked, meant in ((f"{place.name}s", place.name), ("trainings", "training")):
            with pytest.raises(UserError, match=f"Did you mean '{meant}'"):
                findings_of(None, "mini", asked)


@pytest.mark.slow
def test_a_shard_that_is_cut_counts_and_what_came_before_is_kept(home: Path) -> None:
    place = dict(shards(home))["tar"] / "00000.tar"
    content = place.read_bytes()
    with tarfile.open(place) as shard:
        third = shard.getmembers()[2]
    (place.parent / "00001.tar").write_bytes(content)
    place.write_bytes(content[: third.offset_data + third.size // 2])
    found = find_leaks(place.parent, [load_benchmark("gqa")], "mini", load_encoder("mini-dino"))
    one = found.benchmarks["gqa"]
    assert one.broken_images == 2
    assert "00000.tar: the shard can't be read behind image" in " ".join(one.broken_images_first)
    assert one.images >= 4
    assert found.leaked("gqa") == {"q6"}


def img2dataset(place: Path) -> None:
    """Two tars and a folder of images as img2dataset writes them, each with its metadata and counts."""
    place.mkdir()
    for number, key in ((0, 100), (1, 6)):
        files = {f"0000{number}0.png": encoded(picture(key)), f"0000{number}0.txt": b"a caption"}
        (place / f"0000{number}.tar").write_bytes(tarred(files))
    (place / "00002").mkdir()
    picture(8).save(place / "00002" / "000020.png")
    for number in range(3):
        rows = {"key": ["000000"], "url": ["https://example.org/a"], "status": ["success"], "sha256": ["ab"]}
        pq.write_table(pa.table(rows), place / f"0000{number}.parquet")
        (place / f"0000{number}_stats.json").write_text("{}")


@pytest.mark.slow
def test_img2datasets_metadata_are_no_shards_and_are_named(home: Path) -> None:
    img2dataset(home / "laion")
    # A cut one is metadata all the same; one of the same name that has images is read.
    whole = (home / "laion" / "00001.parquet").read_bytes()
    (home / "laion" / "00001.parquet").write_bytes(whole[: len(whole) // 2])
    pq.write_table(pa.table({"jpg": [encoded(picture(3))]}), home / "laion" / "00002.parquet")
    said: list[str] = []
    found = find_leaks(home / "laion", [load_benchmark("gqa")], "mini", load_encoder("mini-dino"), say=said.append)
    one = found.benchmarks["gqa"]
    assert (one.images, one.broken_images, one.broken_images_first) == (4, 0, ())
    assert found.leaked("gqa") == {"q3", "q6", "q8"}
    assert len(said) == 1
    assert "laion: 2 parquet files" in said[0]
    assert "00000.parquet" in said[0]


@pytest.mark.slow
def test_one_shard_that_cannot_be_read_stops_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = home / "mixed"
    place.mkdir()
    hashes = pa.array([b"12345678"], pa.binary())
    pq.write_table(pa.table({"phash": hashes, "jpg": [encoded(picture(4))]}), place / "hashed.parquet")
    (place / "cut.parquet").write_bytes((place / "hashed.parquet").read_bytes()[:50])
    pq.write_table(pa.table({"jpg": [b"a"], "png": [b"b"]}), place / "two.parquet")
    pq.write_table(pa.table({"text": ["a"]}), place / "none.parquet")
    (place / "gone.tar").symlink_to(home / "nowhere.tar")
    (place / "lost.parquet").symlink_to(home / "nowhere.parquet")
    (place / "gone.png").symlink_to(home / "nowhere.png")
    (place / "locked").mkdir()
    listed = os.scandir

    def scandir(path: Any) -> Any:
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    hashed = hashing.hash_corpus(Folder(place), home / "hashes", unheard, named=20)
    assert len(hashed.hashes) == 1
    assert int(hashed.hashes[0]) == hash_of(picture(4))
    assert hashed.broken == 7
    for name, said in (
        ("cut.parquet", "can't be read as a parquet file"),
        ("two.parquet", "several columns could hold the images (jpg, png)"),
        ("none.parquet", "no column of images; it has text"),
        ("gone.tar", "No such file"),
        ("lost.parquet", "No such file"),
        ("gone.png", "No such file"),
        ("locked", "can't be listed"),
    ):
        assert [one for one in hashed.reasons if f"/{name}" in one and said in one], name


@pytest.mark.slow
def test_names_that_are_no_text_are_listed_all_the_same(home: Path) -> None:
    place = home / "named"
    place.mkdir()
    Path(os.fsdecode(os.fsencode(place) + b"/\xff.png")).write_bytes(encoded(picture(2)))
    Path(os.fsdecode(os.fsencode(place) + b"/\xfe.tar")).write_bytes(tarred({"a.png": encoded(picture(5))}))
    Path(os.fsdecode(os.fsencode(place) + b"/\xfd.png")).write_bytes(b"no picture")
    found = find_leaks(place, [load_benchmark("gqa")], "mini", load_encoder("mini-dino"))
    assert {pair["image"] for pair in found.pairs("gqa")} == {"\\xff.png", "\\xfe.tar/a.png"}
    assert "\\xfd.png" in found.benchmarks["gqa"].broken_images_first[0]


def test_a_folder_without_images_is_one_line(home: Path) -> None:
    (home / "empty").mkdir()
    for place, said in ((home / "empty", "no images"), (home / "nowhere", "no such folder")):
        with pytest.raises(UserError, match=said):
            Folder(place)
    (home / "empty" / "a.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match="none of its images can be read"):
        find_leaks(home / "empty", [load_benchmark("gqa")], "mini", load_encoder("mini-dino"))


@pytest.mark.slow
def test_the_command_prints_counts_and_refuses_what_it_cannot_do(home: Path) -> None:
    plant(home, {"copy5.png": picture(5)})
    runner = CliRunner()
    asked = ["leaks", "--against", str(home / "images"), "--benchmarks", "gqa"]
    shown = runner.invoke(app, asked)
    assert shown.exit_code == 0, shown.output
    assert "images: 21 images" in shown.stdout
    row = next(line for line in shown.stdout.splitlines() if line.startswith("gqa"))
    assert row.split()[1] == str(PICTURES)
    assert row.split()[3:] == ["1", str(PICTURES), "1", "-", "0"]
    as_json = json.loads(runner.invoke(app, [*asked, "--json"]).stdout)
    assert as_json["leaked"] == {"pictures": 1, "questions": 0, "both": 0, "either": 1}
    for wrong, said in (
        (["leaks"], "give a recipe"),
        (["leaks", "mini", "--against", "x"], "x: no such folder"),
        (["leaks", "mini", *asked[1:]], "and no benchmarks"),
        ([*asked, "--alarm", "1.5"], "between 0 and 1"),
        ([*asked, "--data", "nowhere"], "nowhere"),
    ):
        refused = runner.invoke(app, wrong)
        assert refused.exit_code == 2, wrong
        assert said in refused.stderr
        assert "Traceback" not in refused.output


@pytest.mark.slow
@pytest.mark.parametrize("searched", ["recipe", "folder", "recipe in folder"])
def test_data_that_can_be_rendered_are_rendered_first(home: Path, searched: str) -> None:
    rendered = home / "data" / "miniature"
    recipe = make_recipe(rendered / "train.jsonl", rendered / "images")
    laion = home / "laion"
    laion.mkdir()
    picture(1).save(laion / "copy.png")
    if searched == "recipe in folder":
        assert check_overlap(recipe, laion).counts.copied == 1
    else:
        found = check_leaks(recipe if searched == "recipe" else laion, ["gqa"])
        assert {pair["picture"] for pair in found.pairs("gqa")} == (
            {f"{number:064x}" for number in range(3)} if searched == "recipe" else {f"{1:064x}"}
        )
    assert (rendered / "VERSION").exists()


def test_a_folder_that_is_not_there_is_told_before_anything_is_rendered(home: Path) -> None:
    for call in (check_leaks, partial(check_overlap, "mini")):
        with pytest.raises(UserError, match="nowhere: no such folder"):
            call(home / "nowhere")
    assert not (home / "data").exists()


def test_the_first_view_is_the_whole_picture() -> None:
    assert VIEWS[0].words() == "whole"
    assert hashes_of_views(picture(1))[0] == hash_of(picture(1))

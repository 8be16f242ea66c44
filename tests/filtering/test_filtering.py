"""A corpus filtered: decisions, what is wrong with pictures and shards, and kills at every point."""

from __future__ import annotations

import io
import json
import os
import signal
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_corpus import Brightness, decisions, files, filtered, png, sample, tar, tars, work

from mllm_eval.errors import UserError
from mllm_eval.filtering import filter_corpus, open_corpus
from mllm_eval.filtering.corpus import FILES


def kept(out: Path) -> list[str]:
    """The index: all kept keys."""
    return [key for path in sorted((out / "kept").rglob("*.txt")) for key in path.read_text().split()]


def test_bright_pictures_are_kept(tmp_path: Path) -> None:
    made = filtered(tars(tmp_path / "in"), tmp_path / "out", label="bright")
    assert (made.tally.kept, made.tally.dropped, made.tally.failed, made.shards) == (7, 8, 0, 3)
    assert [row["key"] for row in decisions(tmp_path / "out")] == [f"{n}-{k}" for n in range(3) for k in range(5)]
    assert kept(tmp_path / "out") == ["1-3", "1-4", *(f"2-{k}" for k in range(5))]
    assert (made.tally.right_kept, made.tally.right_dropped) == (7, 8)
    assert sum(made.tally.bins) == 15 and made.tally.near_kept[0].key == "1-3"
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert summary["kept"] == 7 and summary["judge"]["yes"] == ["yes"]


def test_a_done_corpus_loads_no_model(tmp_path: Path) -> None:
    filtered(tars(tmp_path / "in"), tmp_path / "out")
    before = files(tmp_path / "out")

    def never() -> Any:
        raise AssertionError("the model was loaded")

    assert filtered(tmp_path / "in", tmp_path / "out", judge=never).tally.kept == 7
    assert files(tmp_path / "out") == before


def _killed_at(place: str, out: str, calls: int) -> None:
    """Filters until the judge is asked so often, and is killed there: nothing of Python's runs behind it."""

    class Killed(Brightness):
        left = calls

        def judge(self, prepared: Any) -> Any:
            Killed.left -= 1
            if Killed.left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().judge(prepared)

    filtered(Path(place), Path(out), judge=Killed, shards=True)


@pytest.mark.slow
def test_killed_at_every_batch_it_ends_with_the_same_bytes(tmp_path: Path) -> None:
    place = tars(tmp_path / "in", shards=2)
    tar(place / "00002.tar", [("page.jpg", b"no image"), ("cut.png", png(9)[:50]), *sample("x", 200), *sample("y", 3),
                              *sample("x", 8)])  # fmt: skip
    filtered(place, tmp_path / "whole", shards=True)
    expected = files(tmp_path / "whole")
    assert {"decisions/00000.tar.parquet", "kept/00002.tar.txt", "shards/00001.tar"} <= expected.keys()
    # Three of each shard; of the last one, two hold nothing that can be judged.
    batches = 7
    for calls in range(batches):
        out = tmp_path / f"killed{calls}"
        if not (child := os.fork()):
            try:
                _killed_at(str(place), str(out), calls)
            finally:
                os._exit(0)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
        done = len(list((out / "decisions").glob("*.parquet")))
        assert done == calls // 3, "a shard that was decided stays, another leaves nothing"
        asked = Counter[str]()

        class Counted(Brightness):
            def judge(self, prepared: Any, asked: Counter[str] = asked) -> Any:
                asked["batches"] += 1
                return super().judge(prepared)

        made = filtered(place, out, judge=Counted, shards=True)
        assert asked["batches"] == batches - 3 * done
        assert files(out) == expected and made.tally.failed == 3


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.1, 0.35, 0.5, 0.7, 0.79])
@pytest.mark.parametrize("name", ["00001.tar", "00001.tar.gz"])
def test_a_tar_cut_anywhere_is_named_and_the_rest_goes_on(tmp_path: Path, name: str, share: float) -> None:
    place = tars(tmp_path / "in", shards=1)
    members = [one for k in range(8) for one in sample(f"late-{k}", 200 + k)]
    path = tar(place / name, members)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    tar(place / "00002.tar", sample("last", 255))
    made = filtered(place, tmp_path / "out")
    (fault,) = (made.tally.faults[kind] for kind in ("cut", "unreadable") if kind in made.tally.faults)
    assert fault.count == 1 and str(path) in fault.first[0]
    keys = [row["key"] for row in decisions(tmp_path / "out")]
    assert keys[:5] == [f"0-{k}" for k in range(5)] and keys[-1] == "last"
    rows = {row["key"]: row for row in decisions(tmp_path / "out")}
    assert all(rows[key]["decision"] == "kept" for key in keys[5:-1] if rows[key]["reason"] is None)


@pytest.mark.slow
def test_a_tar_cut_between_two_members_is_no_whole_one(tmp_path: Path) -> None:
    path = tar(tmp_path / "in/0.tar", [*sample("a", 10), *sample("b", 200)])
    # Header and padded content of the two members of `a`: tarfile takes what follows for the end.
    path.write_bytes(path.read_bytes()[: 512 + 512 + 512 + 512])
    made = filtered(tmp_path / "in", tmp_path / "out")
    assert [row["key"] for row in decisions(tmp_path / "out")] == ["a"]
    assert "without a mark of its end" in made.tally.faults["cut"].first[0]


@pytest.mark.slow
def test_a_tar_damaged_in_a_header_is_no_whole_one(tmp_path: Path) -> None:
    path = tar(tmp_path / "in/0.tar", [*sample("a", 10), *sample("b", 200)])
    data = bytearray(path.read_bytes())
    data[2048:2060] = b"\xff" * 12
    path.write_bytes(data)
    assert filtered(tmp_path / "in", tmp_path / "out").tally.faults["cut"].count == 1


@pytest.mark.slow
def test_what_is_no_tar_is_named(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/0.tar").write_bytes(b"an error page, not an archive" * 40)
    tar(tmp_path / "in/1.tar", sample("a", 200))
    made = filtered(tmp_path / "in", tmp_path / "out", shards=True)
    assert made.tally.faults["unreadable"].count == 1 and made.tally.kept == 1


@pytest.mark.slow
def test_reasons_are_the_same_in_every_run(tmp_path: Path) -> None:
    tar(tmp_path / "in/0.tar", [("a.png", b"no image"), ("b.png", png(3)[:50]), ("c.png", b"")])
    filtered(tmp_path / "in", tmp_path / "one")
    held = [bytes(one) for one in range(99)]
    filtered(tmp_path / "in", tmp_path / "two")
    assert files(tmp_path / "one") == files(tmp_path / "two") and held
    assert not any("0x" in row["reason"] for row in decisions(tmp_path / "one"))


def test_broken_members_are_counted_and_named(tmp_path: Path) -> None:
    members = [
        *sample("good", 200),
        ("page.jpg", b"<html>404</html>"), ("page.txt", b"a caption"),
        ("short.png", png(200)[:40]),
        ("twice.png", png(250)), ("twice.jpg", png(10)), ("twice.txt", b"c"),
        ("words.txt", b"a caption of nothing"),
        ("bare.png", png(3)),
        *sample("good", 3),
    ]  # fmt: skip
    tar(tmp_path / "in/0.tar", members)
    made = filtered(tmp_path / "in", tmp_path / "out")
    counts = {kind: fault.count for kind, fault in made.tally.faults.items()}
    assert counts == {"no image": 2, "key twice": 2, "no picture": 1, "no caption": 2}
    rows = [(row["key"], row["decision"]) for row in decisions(tmp_path / "out")]
    assert rows == [("good", "kept"), ("page", "failed"), ("short", "failed"), ("twice", "kept"), ("twice", "failed"),
                    ("words", "failed"), ("bare", "dropped"), ("good", "failed")]  # fmt: skip
    assert all(row["reason"] for row in decisions(tmp_path / "out") if row["decision"] == "failed")
    assert kept(tmp_path / "out") == ["good", "twice"]
    assert "bare.png" in made.tally.faults["no caption"].first[1]


def test_where_no_picture_has_a_caption_none_is_missing(tmp_path: Path) -> None:
    tar(tmp_path / "in/0.tar", [("a.png", png(3)), ("b.png", png(200))])
    assert not filtered(tmp_path / "in", tmp_path / "out").tally.faults


def img2dataset(path: Path) -> None:
    """As img2dataset writes parquet: bytes under the format's name, pictures that could not be had among the rows."""
    rows = [
        {"url": "http://a", "caption": "a", "key": "000", "status": "success", "error_message": None, "jpg": png(250)},
        {"url": "http://b", "caption": "b", "key": "001", "status": "failed_to_download", "error_message": "HTTP 404",
         "jpg": None},
        {"url": "http://c", "caption": "", "key": "002", "status": "success", "error_message": None, "jpg": png(4)},
    ]  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, pa.schema([*((n, pa.string()) for n in list(rows[0])[:-1]),
                                                         ("jpg", pa.binary())])), path)  # fmt: skip


def hub(path: Path) -> None:
    """As the hub has images: a struct of bytes and path, rows without a key."""
    cells = [{"bytes": png(250), "path": "a.png"}, {"bytes": None, "path": "gone.png"}, {"bytes": png(3), "path": None}]
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(pa.table({"image": pa.array(cells, kind), "has_text": [1, 0, 1]}), path)


@pytest.mark.slow
def test_img2datasets_parquet(tmp_path: Path) -> None:
    img2dataset(tmp_path / "in/00000.parquet")
    made = filtered(tmp_path / "in", tmp_path / "out", shards=True)
    rows = [(row["key"], row["decision"], row["reason"]) for row in decisions(tmp_path / "out")]
    assert rows == [("000", "kept", None), ("001", "failed", "row 1: no bytes (failed_to_download HTTP 404)"),
                    ("002", "dropped", None)]  # fmt: skip
    assert made.tally.faults["no caption"].count == 1
    left = pq.read_table(tmp_path / "out/shards/00000.parquet").to_pylist()
    assert [row["url"] for row in left] == ["http://a"]


@pytest.mark.slow
def test_the_hubs_parquet(tmp_path: Path) -> None:
    hub(tmp_path / "in/train-00000-of-00001.parquet")
    made = filtered(tmp_path / "in/train-00000-of-00001.parquet", tmp_path / "out", label="has_text")
    rows = [(row["key"], row["decision"], row["label"]) for row in decisions(tmp_path / "out")]
    assert rows == [("000000000", "kept", True), ("000000001", "failed", None), ("000000002", "dropped", True)]
    assert (made.tally.right_kept, made.tally.wrong_dropped) == (1, 1)


@pytest.mark.slow
def test_metadata_beside_tars_are_no_shards(tmp_path: Path) -> None:
    tars(tmp_path / "in", shards=1)
    pq.write_table(pa.table({"url": ["http://a"]}), tmp_path / "in/00000.parquet")
    made = filtered(tmp_path / "in", tmp_path / "out")
    assert made.shards == 1 and made.left_out == ("00000.parquet",)


@pytest.mark.slow
def test_a_folder_of_images_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mllm_eval.filtering.corpus.FILES", 3)
    for place, grey in enumerate((3, 250, 4, 251, 5, 252, 6)):
        path = tmp_path / f"in/{place // 4}/{place}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(grey))
        path.with_suffix(".txt").write_text("a caption")
    (tmp_path / "in/1/broken.png").symlink_to("nowhere")
    made = filtered(tmp_path / "in", tmp_path / "out", shards=True)
    assert made.shards == 3 and kept(tmp_path / "out") == ["0/1", "0/3", "1/5"]
    assert made.tally.faults["no image"].count == 1
    again = filtered(tmp_path / "out/shards", tmp_path / "again")
    assert again.tally.kept == 3 and not again.tally.dropped and not again.tally.faults
    (tmp_path / "in/0/1.png").write_bytes(png(7))
    assert filtered(tmp_path / "in", tmp_path / "out", shards=True).tally.kept == 2, "a changed file is asked again"
    assert FILES > 3


def test_a_corpus_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        open_corpus(tmp_path / "gone")
    with pytest.raises(UserError, match="no tar, no parquet file and no image"):
        open_corpus(tmp_path)
    (tmp_path / "a.zip").write_bytes(b"PK")
    with pytest.raises(UserError, match="neither a tar"):
        open_corpus(tmp_path / "a.zip")


@pytest.mark.slow
def test_which_column_holds_the_pictures(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"jpg": [png(200)], "png": [png(3)]}), path)
    with pytest.raises(UserError, match=r"several could be it.*--image-column"):
        filtered(path, tmp_path / "out")
    assert filtered(path, tmp_path / "png", image_column="png").tally.dropped == 1
    with pytest.raises(UserError, match=r"no column 'jpgs'.*Did you mean 'jpg'"):
        filtered(path, tmp_path / "other", image_column="jpgs")


def test_decisions_of_another_filter_stay(tmp_path: Path) -> None:
    filtered(tars(tmp_path / "in"), tmp_path / "out")
    before = files(tmp_path / "out")
    with pytest.raises(UserError, match=r"holds decisions by model 'brightness'.*--out"):
        filtered(tmp_path / "in", tmp_path / "out", config={"model": "another"})
    assert files(tmp_path / "out") == before


@pytest.mark.slow
def test_memory_does_not_grow_with_shards(tmp_path: Path) -> None:
    """Neither with shards nor with their pictures: one picture in memory for each shard would be noticed."""
    noise = np.random.default_rng(0)

    def picture() -> bytes:
        out = io.BytesIO()
        PIL.Image.fromarray(noise.integers(0, 256, (100, 200, 3), np.uint8)).save(out, "PNG")
        return out.getvalue()

    first = tar(tmp_path / "few/00000.tar", [(f"{place}.png", picture()) for place in range(5)])
    assert first.stat().st_size > 300_000, "noise can't be compressed"

    class Leaking(Brightness):
        held: ClassVar[list[bytes]] = []
        seen = 0

        def prepare(self, image: PIL.Image.Image) -> float:
            if self.seen % 5 == 0:
                self.held.append(image.tobytes())
            self.seen += 1
            return super().prepare(image)

    def peak(name: str, shards: int, judge: type[Brightness] = Brightness) -> int:
        # The same bytes under many names: what is held of a shard is let go of behind it.
        (tmp_path / name).mkdir(exist_ok=True)
        for number in range(shards):
            if not (path := tmp_path / name / f"{number:05d}.tar").exists():
                os.link(first, path)
        tracemalloc.start()
        made = filter_corpus(work(tmp_path / name, tmp_path / "out" / name, judge))
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert made.tally.judged == 5 * shards
        return found

    peak("warm", 2)
    few = peak("few", 3)
    # Threads that decode ahead hold some pictures of 60 kB more or less.
    allowed = few + 300_000
    assert peak("many", 40) < allowed
    assert peak("leaking", 40, Leaking) > allowed + 1_000_000

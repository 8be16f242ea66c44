"""Keys and names that are odd: bytes that are no UTF-8, dots, line breaks; and parquet files without images."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_corpus import decisions, filtered, png, sample, tar

from mllm_eval.catalog.level import load_level
from mllm_eval.cli.filtering import said_index
from mllm_eval.errors import UserError
from mllm_eval.filtering import Shard, open_corpus
from mllm_eval.filtering.onray import row_of, shard_of
from mllm_eval.filtering.page import write_page


def keys(out: Path) -> list[tuple[str, str]]:
    return [(row["key"], row["decision"]) for row in decisions(out)]


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["tar", "parquet", "files"])
def test_names_that_are_no_utf8_are_read_and_told(tmp_path: Path, layout: str) -> None:
    place = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    place.mkdir()
    odd = os.fsdecode(b"\xe9t\xe9")
    if layout == "tar":
        tar(place / "a.tar", [*sample("a", 200), ("b.png", b"none")]).rename(place / f"{odd}.tar")
    elif layout == "parquet":
        pq.write_table(pa.table({"key": ["a", "b"], "jpg": [png(200), b"none"]}), tmp_path / "a.parquet")
        (tmp_path / "a.parquet").rename(place / f"{odd}.parquet")
    else:
        (place / odd).mkdir()
        (place / odd / "a.png").write_bytes(png(200))
        (place / odd / f"b{odd}.png").write_bytes(b"none")
    out = place.with_name(f"out{odd}")
    made = filtered(place, out, shards=True, config={"question": "?", "threshold": 0.5})
    assert (made.tally.kept, made.tally.failed) == (1, 1)

    def never() -> Any:
        raise AssertionError("the model was loaded")

    again = filtered(place, out, shards=True, config={"question": "?", "threshold": 0.5}, judge=never)
    assert again.tally == made.tally
    (fault,) = made.tally.faults["no image"].first
    assert "caf\\xe9" in fault and "\\xe9t\\xe9" in fault
    page = write_page(made, open_corpus(place), load_level("light"), None).read_text()
    assert page.count("data:image/jpeg") == 1
    shards = list(open_corpus(place).shards())
    assert [shard_of(row_of(shard)) for shard in shards] == shards
    pa.Table.from_pylist([row_of(shard) for shard in shards])
    json.dumps([shard.name for shard in shards], ensure_ascii=False).encode()
    # The written shards are a corpus again.
    assert filtered(out / "shards", tmp_path / "again").tally.kept == 1


def test_a_key_of_a_folder_ends_at_the_ending(tmp_path: Path) -> None:
    place = tmp_path / "in"
    (place / "v1.0").mkdir(parents=True)
    for name, grey in (("photo.0.png", 200), ("photo.1.PNG", 3), ("photo.2.png", 201), ("v1.0/photo.0.jpeg", 202)):
        (place / name).write_bytes(png(grey))
    (place / "photo.0.txt").write_text("a caption")
    (place / "photo.2.json").write_text('{"caption": "another", "bright": true}')
    made = filtered(place, tmp_path / "out", shards=True, label="bright")
    assert keys(tmp_path / "out") == [
        ("photo.0", "kept"), ("photo.1", "dropped"), ("photo.2", "kept"), ("v1.0/photo.0", "kept")]  # fmt: skip
    assert [(row["caption"], row["label"]) for row in decisions(tmp_path / "out")][:3] == [
        (True, None), (False, None), (True, True)]  # fmt: skip
    assert "key twice" not in made.tally.faults
    # In a tar a key ends at the first dot.
    again = filtered(tmp_path / "out/shards", tmp_path / "again")
    assert keys(tmp_path / "again") == [
        ("photo%2E0", "kept"), ("photo%2E2", "kept"), ("v1.0/photo%2E0", "kept")]  # fmt: skip
    assert again.tally.faults["no caption"].count == 1


def test_decisions_by_keys_that_ended_at_the_first_dot_are_made_again(tmp_path: Path) -> None:
    plain = Shard("part-00000", "files", str(tmp_path), ("a.png", "a.txt", "b/v1.0/c.png"))
    dotted = Shard("part-00000", "files", str(tmp_path), ("a.0.png",))

    def earlier(*names: str) -> str:
        """The signature of missing files by earlier versions."""
        return hashlib.sha256("".join(f"{name}\0gone\n" for name in names).encode()).hexdigest()[:16]

    assert plain.signature() == earlier(*plain.files)
    assert dotted.signature() != earlier(*dotted.files)


def test_shards_hold_no_image_that_failed(tmp_path: Path) -> None:
    members = [("t.png", png(200)), ("t.jpg", png(201)), ("t.txt", b"c"), ("u.jpg", b"none"), ("u.txt", b"c"),
               ("v.png", png(3)), ("w.png", png(220)), ("w.png", png(4))]  # fmt: skip
    tar(tmp_path / "in/0.tar", members)
    filtered(tmp_path / "in", tmp_path / "out", shards=True)
    again = filtered(tmp_path / "out/shards", tmp_path / "again")
    assert keys(tmp_path / "again") == [("t", "kept"), ("w", "kept")] and set(again.tally.faults) == {"no caption"}
    (tmp_path / "folder").mkdir()
    for name in ("t.png", "t.jpg"):
        (tmp_path / "folder" / name).write_bytes(png(200))
    filtered(tmp_path / "folder", tmp_path / "files", shards=True)
    assert not filtered(tmp_path / "files/shards", tmp_path / "more").tally.faults


def test_an_index_has_a_line_for_each_key(tmp_path: Path) -> None:
    odd = ["a\nb", "c\rd", "e\u2028f\x85g", "x/ünï"]
    pq.write_table(pa.table({"key": odd, "jpg": [png(200)] * 4}), tmp_path / "a.parquet")
    filtered(tmp_path / "a.parquet", tmp_path / "out")
    assert [row["key"] for row in decisions(tmp_path / "out")] == odd
    assert said_index(tmp_path / "out") == ["a\\nb", "c\\rd", *odd[2:]]
    tar(tmp_path / "in/0.tar", [("x/ünï.a.png", png(200)), ("b\udcff.png", png(201)), (".hidden.png", png(202))])
    filtered(tmp_path / "in", tmp_path / "tar", shards=True)
    assert said_index(tmp_path / "tar") == ["x/ünï", "b\\xff", ""]


def test_a_parquet_file_without_images_is_counted_and_the_others_are_filtered(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    pq.write_table(pa.table({"url": ["http://a"]}), tmp_path / "in/0.parquet")
    pq.write_table(pa.table({"jpg": [png(200)], "bright": [True]}), tmp_path / "in/1.parquet")
    pq.write_table(pa.table({"jpg": [png(200)]}), tmp_path / "in/2.parquet")
    made = filtered(tmp_path / "in", tmp_path / "out", label="bright", shards=True)
    first, last = made.tally.faults["no column"].first
    assert "in/0.parquet: which column holds the pictures? none of url is it" in first
    assert "in/2.parquet: has no column 'bright' for --label" in last
    assert (made.tally.kept, made.tally.failed, made.shards) == (1, 0, 3)
    # What none of them has is a mistake of the user's, and so is a choice that is left open.
    with pytest.raises(UserError, match=r"1.parquet: has no column 'glare' for --label"):
        filtered(tmp_path / "in", tmp_path / "other", label="glare")
    pq.write_table(pa.table({"jpg": [png(200)], "png": [png(3)]}), tmp_path / "in/3.parquet")
    with pytest.raises(UserError, match=r"3.parquet: which column .* several could be it"):
        filtered(tmp_path / "in", tmp_path / "open")

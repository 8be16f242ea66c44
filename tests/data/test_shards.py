"""Tars and parquet files of pictures: one reader, which keeps to bounds and tells a whole tar from a cut one."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_corpus import filtered, png, sample, tar

from mllm_eval.data import shards
from mllm_eval.data.shards import Broken, Member, metadata_beside, tar_members
from mllm_eval.errors import UserError
from mllm_eval.leaks.corpora import Folder


def test_a_member_that_is_too_large_is_passed_over_and_the_rest_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tar(tmp_path / "0.tar.gz", [("a.png", b"x" * 11), ("b.png", b"y" * 10)])
    monkeypatch.setattr(shards, "MEMBER_BYTES", 10)
    large, small = tar_members(path)
    assert large == Member("a.png", None, "it has 11 bytes; at most 10 are read") and small == Member(
        "b.png", b"y" * 10
    )
    assert [one.name for one in tar_members(path, lambda name: name == "b.png")] == ["b.png"]


def test_a_tar_that_was_cut_between_two_members_is_told_by_every_reader(tmp_path: Path) -> None:
    path = tar(tmp_path / "in/0.tar", [*sample("a", 10), *sample("b", 200)])
    path.write_bytes(path.read_bytes()[: 4 * 512])
    with pytest.raises(Broken, match="ends behind 2 members without a mark of its end"):
        list(tar_members(path))
    images = Folder(tmp_path / "in").images(0)
    assert next(images).name == "0.tar/a.png"
    with pytest.raises(UserError, match=r"can't be read behind image 1 .*without a mark of its end"):
        next(images)


def test_leaks_are_looked_for_in_all_that_the_filter_reads(tmp_path: Path) -> None:
    tar(tmp_path / "0.tgz", [("a.PPM", b"1"), ("b.txt", b"2"), ("c.avif", b"3")])
    for name in ("d.jp2", "e.pgm"):
        (tmp_path / name).write_bytes(b"4")
    folder = Folder(tmp_path)
    assert sorted(one.name for piece in range(folder.pieces) for one in folder.images(piece)) == [
        "0.tgz/a.PPM", "0.tgz/c.avif", "d.jp2", "e.pgm",
    ]  # fmt: skip


@pytest.mark.slow
def test_kept_rows_of_a_damaged_parquet_file_are_those_before_the_damage(tmp_path: Path) -> None:
    path = tmp_path / "in" / "0.parquet"
    path.parent.mkdir()
    rows = {"key": [f"{n:03d}" for n in range(128)], "jpg": [png(255, (6, 5 + n % 7)) for n in range(128)]}
    pq.write_table(pa.table(rows), path, row_group_size=64, compression="zstd")
    place = pq.ParquetFile(path).metadata.row_group(1).column(1)
    data = bytearray(path.read_bytes())
    begin = place.dictionary_page_offset or place.data_page_offset
    data[begin : begin + 60] = b"\xff" * 60
    path.write_bytes(data)
    made = filtered(path, tmp_path / "out", shards=True)
    assert made.tally.faults["cut"].count == 1 and made.tally.kept == 64
    assert pq.read_table(tmp_path / "out" / "shards" / "0.parquet").column("key").to_pylist() == rows["key"][:64]


def test_a_parquet_file_with_the_name_of_a_tar_or_folder_is_metadata() -> None:
    files = ["0.tar.gz", "0.parquet", "1.parquet", "2.PARQUET", "train.part.parquet", "train.part.tar", "notes.txt"]
    assert metadata_beside(files, ["1", "2", "notes"]) == {"0.parquet", "1.parquet"}
    assert metadata_beside(["0.parquet"], []) == set()

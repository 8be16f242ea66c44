"""Faults of the disk under a filter's files and under files that are fetched: one line, and the next start goes on."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import made_corpus
import pyarrow.parquet as pq
import pytest
from faulty import KINDS, faulty, largest_file
from local_hub import Hub, served

from mllm_eval.data import shards
from mllm_eval.data.shards import Broken, tar_members
from mllm_eval.disk import NotWritten
from mllm_eval.errors import UserError
from mllm_eval.filtering import corpusrun
from mllm_eval.filtering.corpusrun import read_spent
from mllm_eval.filtering.deciding import META
from mllm_eval.hub import Source, transfer
from mllm_eval.hub.fetch import fetch, fetch_url
from mllm_eval.storage import sha256_bytes

MODEL = Source("model", "owner/model", "main", "fetch it again")
DATA = bytes(range(256)) * 40


def hold_to_one_line(problem: NotWritten, folder: Path) -> None:
    said = str(problem)
    assert "\n" not in said and said.startswith(f"{folder}/") and "cannot be written (" in said and "); " in said, said


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    # What the record says of the machine takes a second.
    monkeypatch.setattr(corpusrun, "describe", dict)
    return made_corpus.tars(tmp_path / "in", shards=2, each=2)


def files(out: Path) -> dict[str, bytes]:
    # What beside the pictures tells of the place is compared, too.
    return {**made_corpus.files(out), "filter.json": (out / "filter.json").read_bytes()}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_filter_goes_on_from_any_call_that_fails(kind: str, corpus: Path, tmp_path: Path) -> None:
    made_corpus.filtered(corpus, tmp_path / "undisturbed", label="bright", shards=True)
    whole = files(tmp_path / "undisturbed")
    refused = 0
    for at in range(200):
        folder = tmp_path / f"{at}"
        with faulty(kind, folder, at) as faults:
            try:
                made_corpus.filtered(corpus, folder, label="bright", shards=True)
            except NotWritten as problem:
                hold_to_one_line(problem, folder)
                refused += 1
        left = [path for path in folder.rglob("*.tmp")] if folder.is_dir() else []
        assert left == []
        made_corpus.filtered(corpus, folder, label="bright", shards=True)
        assert files(folder) == whole, at
        if not faults.met:
            break
        shutil.rmtree(folder)
    else:
        raise AssertionError("more calls than are counted")
    assert refused >= 8


def test_a_filters_files_are_whole_where_the_system_takes_a_byte_at_a_time(corpus: Path, tmp_path: Path) -> None:
    made_corpus.filtered(corpus, tmp_path / "undisturbed", shards=True)
    with faulty("short", tmp_path / "short", 0):
        made_corpus.filtered(corpus, tmp_path / "short", shards=True)
    assert files(tmp_path / "short") == files(tmp_path / "undisturbed")
    assert read_spent(tmp_path / "short").pictures == 4
    with largest_file(500), pytest.raises(NotWritten, match=r"ulimit -f"):
        made_corpus.filtered(corpus, tmp_path / "limited", shards=True)
    assert made_corpus.filtered(corpus, tmp_path / "limited", shards=True).tally.judged == 4


def test_counts_that_came_back_otherwise_are_made_again(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    made_corpus.filtered(corpus, out)
    whole = files(out)
    path = sorted((out / "decisions").iterdir())[0]
    sound = path.read_bytes()
    said = json.loads(pq.read_metadata(path).metadata[META])
    assert said["tally"]["kept"] == 0 and sound.count(b'"kept": 0') == 1
    # JSON as good as the first, of a picture more; and what is no document of counts at all.
    for other in (sound.replace(b'"kept": 0', b'"kept": 1'), sound.replace(b'"tally": {', b'"tally": [')):
        path.write_bytes(other)
        made = made_corpus.filtered(corpus, out)
        assert made.tally.kept == 2 and files(out) == whole
    # Decisions of earlier versions have no checksum and stay.
    path.write_bytes(sound.replace(b'"sum"', b'"was"'))
    asked: list[int] = []

    class Judge(made_corpus.Brightness):
        def judge(self, prepared: Any) -> Any:
            asked.append(len(prepared))
            return super().judge(prepared)

    made_corpus.filtered(corpus, out, judge=Judge)
    assert asked == []


def test_a_disk_that_fails_under_a_corpus_is_no_fault_of_its_shards(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> Any:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(shards, "read_member", fails)
        with pytest.raises(UserError, match=r"00000.tar: cannot be read \(Input/output error\)") as problem:
            made_corpus.filtered(corpus, tmp_path / "out")
        assert not isinstance(problem.value, NotWritten)
    assert made_corpus.filtered(corpus, tmp_path / "out").tally.judged == 4


def test_a_damaged_bz2_is_a_fault_of_its_shard(tmp_path: Path) -> None:
    import bz2

    sound = (made_corpus.tar(tmp_path / "a.tar", made_corpus.sample("k", 10))).read_bytes()
    packed = bytearray(bz2.compress(sound))
    packed[len(packed) // 2] ^= 255
    (tmp_path / "b.tar.bz2").write_bytes(packed)
    with pytest.raises(Broken):
        list(tar_members(tmp_path / "b.tar.bz2"))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr(transfer, "CHUNK", 2**12)
    with served(tmp_path, monkeypatch) as found:
        found.plain["w/model.pth"] = DATA
        found.repos["models/owner/model"] = {"config.json": b"{}", "model.safetensors": DATA}
        yield found


@pytest.mark.parametrize("kind", KINDS)
def test_an_address_is_fetched_on_from_any_call_that_fails(kind: str, hub: Hub, tmp_path: Path) -> None:
    source, refused = Source("url", f"{hub.url}/w/model.pth", mend="fetch it again"), 0
    for at in range(60):
        folder = tmp_path / "weights" / f"{at}"
        with faulty(kind, folder, at) as faults:
            try:
                fetch_url(source, folder / "model.pth", home=folder)
            except NotWritten as problem:
                hold_to_one_line(problem, folder)
                refused += 1
        fetch_url(source, folder / "model.pth", home=folder)
        assert (folder / "model.pth").read_bytes() == DATA and not list(folder.rglob("*.part"))
        if not faults.met:
            break
    assert refused >= 1 and at < 59


@pytest.mark.parametrize("kind", KINDS)
def test_a_repository_is_fetched_on_from_any_call_that_fails(kind: str, hub: Hub, tmp_path: Path) -> None:
    refused = 0
    for at in range(60):
        folder = tmp_path / "model" / f"{at}"
        with faulty(kind, folder, at) as faults:
            try:
                fetch(MODEL, lambda names: names, folder, home=folder)
            except NotWritten as problem:
                hold_to_one_line(problem, folder)
                refused += 1
        fetch(MODEL, lambda names: names, folder, home=folder)
        assert (folder / "model.safetensors").read_bytes() == DATA and not list(folder.rglob("*.part"))
        if not faults.met:
            break
    assert refused >= 1 and at < 59


def test_what_arrives_otherwise_is_removed_and_fetched_again(hub: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    part = folder / f".model.safetensors.{sha256_bytes(DATA)[:12]}.part"
    folder.mkdir()
    part.write_bytes(b"\1" + DATA[1:5000])
    with pytest.raises(UserError, match="did not arrive as the hub lists it; fetch it again"):
        fetch(MODEL, lambda names: names, folder)
    fetch(MODEL, lambda names: names, folder)
    assert (folder / "model.safetensors").read_bytes() == DATA

"""A folder of decisions belongs to one corpus: another is refused, lost shards do not count, killed drivers go on."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from made_corpus import decisions, files, filtered, png, sample, tar, tars

from mllm_eval.errors import UserError
from mllm_eval.filtering import Shard, Tally, Work
from mllm_eval.filtering.onray import Worker, row_of


def test_another_corpus_is_refused(tmp_path: Path) -> None:
    filtered(tars(tmp_path / "x/images", shards=4), tmp_path / "out", shards=True)
    before = files(tmp_path / "out")
    with pytest.raises(UserError, match=r"on the images of .*x/images, not of .*y/images; give another --out"):
        filtered(tars(tmp_path / "y/images", shards=2, each=3), tmp_path / "out", shards=True)
    assert files(tmp_path / "out") == before


def test_a_corpus_that_was_moved_or_linked_is_the_same(tmp_path: Path) -> None:
    place = tars(tmp_path / "in", shards=2)
    filtered(place, tmp_path / "out")
    (tmp_path / "link").symlink_to(place)
    tar(place / "00000.tar", sample("new", 200))
    assert filtered(tmp_path / "link", tmp_path / "out").tally.judged == 6
    place.rename(tmp_path / "moved")

    def never() -> Any:
        raise AssertionError("the model was loaded")

    assert filtered(tmp_path / "moved", tmp_path / "out", judge=never).tally.judged == 6
    assert json.loads((tmp_path / "out/filter.json").read_text())["corpus"] == str(tmp_path / "moved")


def test_lost_shards_leave_no_files_among_the_others_and_come_back(tmp_path: Path) -> None:
    place = tars(tmp_path / "in", shards=4)
    filtered(place, tmp_path / "out", shards=True)
    whole = files(tmp_path / "out")
    for name in ("00001.tar", "00002.tar"):
        (place / name).rename(tmp_path / name)
    made = filtered(place, tmp_path / "out", shards=True)
    assert (made.shards, made.gone, made.tally.judged) == (2, 2, 10)
    assert len(decisions(tmp_path / "out")) == 10
    for folder in ("decisions", "kept", "shards"):
        assert [path.name[:5] for path in sorted((tmp_path / "out" / folder).iterdir())] == ["00000", "00003"]
    (tmp_path / "00001.tar").rename(place / "00001.tar")
    (tmp_path / "00002.tar").rename(place / "00002.tar")

    def never() -> Any:
        raise AssertionError("the model was loaded")

    assert filtered(place, tmp_path / "out", shards=True, judge=never).gone == 0
    assert files(tmp_path / "out") == whole


def test_a_smaller_folder_of_images_has_fewer_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mllm_eval.filtering.corpus.FILES", 2)
    (tmp_path / "in").mkdir()
    for number in range(5):
        (tmp_path / f"in/{number}.png").write_bytes(png(200))
    assert filtered(tmp_path / "in", tmp_path / "out", shards=True).shards == 3
    (tmp_path / "in/4.png").unlink()
    made = filtered(tmp_path / "in", tmp_path / "out", shards=True)
    assert (made.shards, made.gone) == (2, 1)
    assert [path.name for path in sorted((tmp_path / "out/shards").iterdir())] == ["part-00000.tar", "part-00001.tar"]


def test_kept_images_of_changed_bytes_are_not_taken_for_new_ones(tmp_path: Path) -> None:
    path = tar(tmp_path / "in/0.tar", [*sample("a", 200), *sample("b", 3)])
    filtered(tmp_path / "in", tmp_path / "out", shards=True)
    tar(path, [*sample("c", 200), *sample("d", 201)])
    # The decisions are new, and nothing writes the images.
    filtered(tmp_path / "in", tmp_path / "out")
    filtered(tmp_path / "in", tmp_path / "out", shards=True)
    again = filtered(tmp_path / "out/shards", tmp_path / "again")
    assert [row["key"] for row in decisions(again.out)] == ["c", "d"]


def _by_a_worker(work: Work, shards: Iterable[Shard]) -> Iterator[tuple[str, Tally]]:
    worker = Worker(work.judge, work.asked, work.places)
    for row in [row_of(shard) for shard in shards]:
        yield row["name"], Tally.of_dict(json.loads(worker(row)["tally"]))


def _then_killed(work: Work, shards: Iterable[Shard]) -> Iterator[tuple[str, Tally]]:
    """All shards are decided elsewhere before the driver, which hears of none of them, is killed."""
    done = list(_by_a_worker(work, shards))
    os.kill(os.getpid(), signal.SIGKILL)
    yield from done


@pytest.mark.slow
def test_a_driver_killed_behind_the_last_shard_ends_with_the_same_summary(tmp_path: Path) -> None:
    place = tars(tmp_path / "in")
    whole = filtered(place, tmp_path / "whole", _by_a_worker)
    if not (child := os.fork()):
        try:
            filtered(place, tmp_path / "out", _then_killed)
        finally:
            os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    again = filtered(place, tmp_path / "out", _by_a_worker)
    assert again.about == whole.about == {"by": "test", "yes": ["yes"], "no": ["no"]}
    assert files(tmp_path / "out") == files(tmp_path / "whole")

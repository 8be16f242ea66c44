"""The same filter on a local Ray with two workers: the bytes of one process, also after a worker's death."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import made_corpus
import pytest
from made_corpus import Brightness, files, filtered, sample, tar, tars

from mllm_eval.errors import UserError

ray = pytest.importorskip("ray")
pytest.importorskip("ray.data")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def local() -> Iterator[None]:
    """One Ray for all tests here: it takes seconds to start."""
    import sys

    ray.cloudpickle.register_pickle_by_value(made_corpus)
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    # A busy machine takes its time.
    os.environ.setdefault("RAY_raylet_start_wait_time_s", "300")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    yield
    ray.shutdown()


def two() -> Any:
    from mllm_eval.filtering.onray import on_ray

    return on_ray("local", workers=2)


def test_two_workers_give_the_bytes_of_one_process(tmp_path: Path) -> None:
    place = tars(tmp_path / "in", shards=5)
    tar(place / "00009.tar", [("page.jpg", b"no image"), *sample("good", 200)])
    one = filtered(place, tmp_path / "one", shards=True)
    (tmp_path / "two/decisions").mkdir(parents=True)
    other = filtered(place, tmp_path / "two", two(), shards=True)
    assert files(tmp_path / "two") == files(tmp_path / "one")
    assert other.tally == one.tally and other.about == one.about


class Dying(Brightness):
    """Is killed once, when it is asked about the second batch of its life."""

    def __init__(self, mark: str) -> None:
        super().__init__()
        self.mark, self.asked = Path(mark), 0

    def judge(self, prepared: Any) -> Any:
        self.asked += 1
        if self.asked > 1 and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().judge(prepared)


def test_a_worker_that_dies_costs_nothing(tmp_path: Path) -> None:
    place, mark = tars(tmp_path / "in", shards=4), str(tmp_path / "mark")
    filtered(place, tmp_path / "one")
    filtered(place, tmp_path / "two", two(), judge=lambda: Dying(mark))
    assert Path(mark).exists()
    assert files(tmp_path / "two") == files(tmp_path / "one")


def test_what_a_user_did_wrong_is_one_line(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"jpg": [made_corpus.png(3)]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match="no column 'x'"):
        filtered(tmp_path / "a.parquet", tmp_path / "out", two(), image_column="x")


def test_a_model_that_cannot_be_loaded_is_one_line(tmp_path: Path) -> None:
    def unloadable() -> Any:
        raise UserError("the run is not trained")

    with pytest.raises(UserError, match=r"^the run is not trained$"):
        filtered(tars(tmp_path / "in"), tmp_path / "out", two(), judge=unloadable)

    def broken() -> Any:
        raise KeyError("layer 7")

    with pytest.raises(UserError, match=r"^a worker on Ray failed: .*layer 7.*; finished shards stay"):
        filtered(tars(tmp_path / "in"), tmp_path / "out", two(), judge=broken)


def test_a_folder_of_images_gives_the_bytes_of_one_process(tmp_path: Path) -> None:
    (tmp_path / "in/a").mkdir(parents=True)
    for place in range(6):
        (tmp_path / f"in/a/{place}.{place}.png").write_bytes(made_corpus.png(place * 50))
    filtered(tmp_path / "in", tmp_path / "one", shards=True)
    filtered(tmp_path / "in", tmp_path / "two", two(), shards=True)
    assert files(tmp_path / "two") == files(tmp_path / "one")

"""Workers on Ray without Ray: what a worker is given and answers, the time of several, and Ray's errors in one line."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from made_corpus import filtered, tars, work

from mllm_eval.errors import UserError
from mllm_eval.filtering import Shard, corpus, open_corpus
from mllm_eval.filtering.corpusrun import read_spent
from mllm_eval.filtering.onray import Worker, on_ray, row_of, shard_of


def test_a_row_of_a_folder_is_small_and_lists_the_same_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "FILES", 3)
    names = ["a.png", "a-b.png", "a.b.png", "a.b.txt", "c/1.png", "c/1.json", "c/d/2.png", "c/e.png", "c.png",
             "c.x/3.png", "c.txt", ".hidden.png", "d.md", "v1.0/a.png", "v1-a/b.png", "z/z/z/z.png"]  # fmt: skip
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    shards = list(open_corpus(tmp_path).shards())
    assert len(shards) > 3 and sorted(name for one in shards for name in one.files) == sorted(
        set(names) - {".hidden.png", "d.md"}
    )
    assert [shard_of(row_of(one)) for one in shards] == shards
    many = Shard("part-00000", "files", str(tmp_path), tuple(f"{place:09d}.png" for place in range(1000)))
    assert len(str(row_of(many))) < 300 + len(str(tmp_path))


def test_a_worker_lists_only_the_folders_of_its_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "FILES", 2)
    for name in ("a/1.png", "a/2.png", "b/1.png", "b/2.png", "c/1.png", "c/2.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    rows = [row_of(one) for one in open_corpus(tmp_path).shards()]
    listed: list[str] = []

    def names(folder: str) -> tuple[str, ...]:
        listed.append(Path(folder).name)
        return corpus.folder_names(folder)

    monkeypatch.setattr(corpus, "kept_names", names)
    assert shard_of(rows[1]).files == ("b/1.png", "b/2.png")
    assert "a" not in listed and "b" in listed


def test_a_worker_answers_with_what_the_user_can_mend(tmp_path: Path) -> None:
    def unloadable() -> Any:
        raise UserError("the run is not trained; run `mllm-eval train`")

    one = work(tars(tmp_path / "in", shards=1), tmp_path / "out", unloadable)
    (shard,) = one.corpus.shards()
    answer = Worker(one.judge, one.asked, one.places)(row_of(shard))
    assert answer["problem"] == "the run is not trained; run `mllm-eval train`"


def test_time_of_several_workers_counts_once(tmp_path: Path) -> None:
    lines = [
        {"shard": "a", "pictures": 100, "began": 1000.0, "seconds": 10.0, "cpu_seconds": 9.0},
        {"shard": "b", "pictures": 100, "began": 1002.0, "seconds": 10.0, "cpu_seconds": 9.0},
        {"shard": "c", "pictures": 100, "began": 1010.5, "seconds": 2.5, "cpu_seconds": 2.0},
        # Another call, an hour later.
        {"shard": "d", "pictures": 100, "began": 4600.0, "seconds": 5.0, "cpu_seconds": 5.0},
        # By a version that wrote no beginning.
        {"shard": "e", "pictures": 100, "seconds": 2.0, "cpu_seconds": 2.0},
    ]
    (tmp_path / "timings.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"shard": "f", "pic')
    spent = read_spent(tmp_path)
    assert (spent.pictures, spent.cpu_seconds) == (500, 27.0)
    assert spent.seconds == pytest.approx(13.0 + 5.0 + 2.0)


def test_the_time_of_a_filter_is_that_of_the_clock(tmp_path: Path) -> None:
    made = filtered(tars(tmp_path / "in"), tmp_path / "out")
    began = [json.loads(line)["began"] for line in (tmp_path / "out/timings.jsonl").read_text().splitlines()]
    assert began == sorted(began) and len(began) == 3 and made.spent.seconds < 60


class Ray(ModuleType):
    """As much of Ray as the filter calls, in this process."""

    class RayError(Exception):
        """Ray's base of errors."""

    def __init__(self, gpus: float = 0, fails: Callable[[], None] = lambda: None, reached: bool = True) -> None:
        super().__init__("ray")
        self.gpus, self.fails, self.reached = gpus, fails, reached
        self.told: dict[str, Any] = {}
        self.data, self.exceptions = ModuleType("ray.data"), ModuleType("ray.exceptions")
        vars(self.exceptions)["RayError"] = Ray.RayError
        context = SimpleNamespace(get_current=lambda: SimpleNamespace())
        vars(self.data).update(from_items=self.from_items, DataContext=context, ActorPoolStrategy=SimpleNamespace)

    def is_initialized(self) -> bool:
        return False

    def init(self, **how: Any) -> None:
        if not self.reached:
            raise ConnectionError("Could not find any running Ray instance. Please specify the one to connect to.")

    def shutdown(self) -> None:
        pass

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 4.0, **({"GPU": self.gpus} if self.gpus else {})}

    def from_items(self, rows: list[dict[str, Any]], override_num_blocks: int) -> Any:
        def mapped(kind: Any, fn_constructor_args: tuple[Any, ...], **how: Any) -> Any:
            self.told = how

            def answers() -> Iterator[dict[str, Any]]:
                worker = kind(*fn_constructor_args)
                for row in rows:
                    self.fails()
                    yield worker(row)

            return SimpleNamespace(iter_rows=answers)

        return SimpleNamespace(map=mapped)


def with_ray(monkeypatch: pytest.MonkeyPatch, ray: Ray) -> Ray:
    for name, module in (("ray", ray), ("ray.data", ray.data), ("ray.exceptions", ray.exceptions)):
        monkeypatch.setitem(sys.modules, name, module)
    return ray


@pytest.mark.parametrize(("gpus", "workers", "each"), [(0, 3, 0), (1, 1, 1), (2, 2, 1), (8, 3, 1)])
def test_the_gpus_are_those_of_the_cluster(
    gpus: int, workers: int, each: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = with_ray(monkeypatch, Ray(gpus))
    place = tars(tmp_path / "in", shards=4)
    assert filtered(place, tmp_path / "out", on_ray("local", workers=3)).tally.judged == 20
    assert (ray.told["num_gpus"], ray.told["compute"].size) == (each, workers)


def test_a_cluster_that_is_not_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_ray(monkeypatch, Ray(reached=False))
    with pytest.raises(UserError, match=r"^--ray auto: ConnectionError: Could not find .*; start a cluster by `ray s"):
        filtered(tars(tmp_path / "in"), tmp_path / "out", on_ray("auto"))


def test_errors_of_workers_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tars(tmp_path / "in")

    def unloadable() -> Any:
        raise UserError("the run is not trained")

    with_ray(monkeypatch, Ray())
    with pytest.raises(UserError, match=r"^the run is not trained$"):
        filtered(place, tmp_path / "out", on_ray(), judge=unloadable)

    def raised() -> None:
        # As RayTaskError: the text is a traceback, the worker's own error is its cause.
        problem = Ray.RayError("ray::Map()\n  File x, line 3\nKeyError: 'b'")
        vars(problem)["cause"] = KeyError("b")
        raise problem

    with_ray(monkeypatch, Ray(fails=raised))
    with pytest.raises(UserError, match=r"^a worker on Ray failed: KeyError: 'b'; finished shards stay"):
        filtered(place, tmp_path / "out", on_ray())

    def died() -> None:
        raise Ray.RayError("The actor died because of an error raised in its creation task:\n\nOSError: no disk\n")

    with_ray(monkeypatch, Ray(fails=died))
    with pytest.raises(UserError, match=r"^a worker on Ray failed: OSError: no disk; finished shards stay"):
        filtered(place, tmp_path / "out", on_ray())

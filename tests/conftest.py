"""Fixtures that tests of several packages share. They import what is heavy when they are asked for."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from places import TINY_RECIPE

# Seconds of processor time that a test may take without the mark `slow`, which keeps it out of `make test-fast`.
SLOW = 1.0

if "PYTEST_XDIST_WORKER" in os.environ:
    # Workers share the cores, so each has one; torch, and every process that a test starts, reads this as it begins.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Slowness())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Counts what a test takes of the processors, its processes included, which a busy machine does not change."""
    before = sum(os.times()[:4])
    try:
        return (yield)
    finally:
        item.user_properties.append(("processor seconds", sum(os.times()[:4]) - before))


class Slowness:
    """Lists tests at the end that are slow and do not say so."""

    def __init__(self) -> None:
        self.unmarked: list[tuple[float, str]] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        seconds: Any = dict(report.user_properties).get("processor seconds", 0.0)
        if report.when == "call" and seconds > SLOW and not {"slow", "long"} & set(report.keywords):
            self.unmarked.append((seconds, report.nodeid))

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if self.unmarked:
            terminalreporter.section(f"over {SLOW:g} s of processor time without the mark `slow`")
        for seconds, name in sorted(self.unmarked, reverse=True):
            terminalreporter.line(f"{seconds:6.1f} s  {name}")


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where runs are written."""
    monkeypatch.setenv("MLLM_EVAL_RESULTS", str(tmp_path / "results"))
    return tmp_path / "results"


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The miniature's data with few training rows. It is for reading."""
    from mllm_eval.miniature.build import build

    data = tmp_path_factory.mktemp("tiny") / "data"
    build(data, alignment=24, instruction=40)
    return data


@pytest.fixture(scope="module")
def tiny_home(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Data, weights and their yaml files, in a place that a module's tests may spoil."""
    from tiny_models import write_models

    home = tmp_path_factory.mktemp("home")
    shutil.copytree(tiny_data, home / "data")
    write_models(home)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLLM_EVAL_DATA", str(home / "data"))
        patch.setenv("MLLM_EVAL_RESULTS", str(home / "results"))
        patch.setenv("MLLM_EVAL_PATH", str(home))
        yield home


@pytest.fixture(scope="session")
def own_trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights, a training set, a benchmark and a run that was trained on it and has answered. It is for reading."""
    from own_benchmark import evaluate, set_home, settle, write
    from tiny_models import write_colours, write_models

    home = tmp_path_factory.mktemp("own")
    write_colours(home)
    write_models(home)
    data = [{"path": "data:mine/train.jsonl", "images": "data:mine/images"}]
    recipe = {"base": TINY_RECIPE, "name": "own", "data": "mine", "stage1": {"data": data}, "stage2": {"data": data}}
    (home / "configs/recipes").mkdir()
    (home / "configs/recipes/own.yaml").write_text(yaml.safe_dump(recipe))
    (home / "benchmarks/own").mkdir(parents=True)
    write(home)
    with pytest.MonkeyPatch.context() as patch:
        settle(patch)
        set_home(patch, home)
        evaluate()
    return home


@pytest.fixture
def own_home(own_trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same in a place that a test may spoil."""
    from own_benchmark import evaluate, set_home, settle

    place = tmp_path / "own"
    shutil.copytree(own_trained, place, symlinks=True)
    set_home(monkeypatch, place)
    settle(monkeypatch)
    evaluate()
    return place

"""Data that is missing: made where this machine can make it, named in one line where it can't."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from pathlib import Path

import pydantic

from mllm_eval.catalog import Benchmark, Recipe
from mllm_eval.config import Strict, load
from mllm_eval.errors import UserError
from mllm_eval.pipeline.reporter import Reporter
from mllm_eval.storage import PACKAGE, FileLock, data_home, locate


class Source(Strict):
    """A folder under the data home that `make` ("module:function", given the data home) fills; see
    configs/sources.yaml."""

    make: str
    whole: str


class Sources(pydantic.RootModel[dict[str, Source]]):
    """Folder name -> what makes it."""


def sources() -> dict[str, Source]:
    """What this installation can make."""
    return load(PACKAGE / "configs" / "sources.yaml", Sources).root


def needed(recipe: Recipe, training: bool, benchmarks: Iterable[Benchmark]) -> list[Path]:
    """The files and folders of data that training by this recipe, and asking these benchmarks, read."""
    paths = []
    if training:
        sets = [*recipe.stage1.data, *recipe.stage2.data]
        paths = [locate(ref) for data in sets for ref in (data.path, data.images)]
    for benchmark in benchmarks:
        pin = benchmark.pin(recipe.data)
        paths += [data_home() / part.repo for part in (pin, *pin.extra.values())]
    return list(dict.fromkeys(paths))


def provide(paths: Iterable[Path], reporter: Reporter) -> bool:
    """Make what is missing of some data; True if anything was made.

    Raises:
        UserError: a path is missing that no source makes, or that its source did not make.
    """
    wanted = list(paths)
    made = False
    for name, source in sources().items():
        folder = data_home() / name
        if any(path.is_relative_to(folder) for path in wanted) and not (folder / source.whole).is_file():
            _make(name, source, reporter)
            made = True
    for path in wanted:
        if not path.exists():
            raise UserError(f"{path}: no such data. Put it there, or set MLLM_EVAL_DATA (now {data_home()}).")
    return made


def _make(name: str, source: Source, reporter: Reporter) -> None:
    module, _, function = source.make.partition(":")
    lock = FileLock(data_home() / f".{name}.lock", lambda: reporter.say(f"waiting: {name} is being made"))
    with lock, reporter.step(f"data: making {name}"):
        if not (data_home() / name / source.whole).is_file():
            getattr(importlib.import_module(module), function)(data_home())

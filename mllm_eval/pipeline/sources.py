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
from mllm_eval.storage import PACKAGE, data_home, locate


class Source(Strict):
    """What makes a folder of the data home (`make`), and the file that says that it is whole; see
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


def provide(paths: Iterable[Path], reporter: Reporter, check: bool = False) -> bool:
    """Make what is missing of some data; True if anything was made. With `check`, its maker looks closely.

    Raises:
        UserError: a path is missing that no source makes, or that its source did not make.
    """
    wanted = list(paths)
    made = False
    for name, source in sources().items():
        folder = data_home() / name
        here = (folder / source.whole).is_file()
        if any(path.is_relative_to(folder) for path in wanted) and (check or not here):
            _make(name, source, reporter)
            made = made or not here
    for path in wanted:
        if not path.exists():
            raise UserError(f"{path}: no such data. Put it there, or set MLLM_EVAL_DATA (now {data_home()}).")
    return made


def _make(name: str, source: Source, reporter: Reporter) -> None:
    module, _, function = source.make.partition(":")
    make = getattr(importlib.import_module(module), function)
    with reporter.step(f"data: {name}") as progress:
        make(data_home(), lambda _, done, total: progress(done, total))

"""Data that is missing: made where this machine can make it, named in one line where it can't."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pydantic

from mllm_eval.catalog import Benchmark, Recipe
from mllm_eval.config import Strict, load
from mllm_eval.errors import UserError
from mllm_eval.pipeline.reporter import Reporter
from mllm_eval.storage import SHIPPED, data_home, locate, read_text


class MadeFolder(Strict):
    """What makes a folder of the data home (`make`), the file that says that it is whole, and what that file holds
    when today's code made it (`version`); see configs/sources.yaml."""

    make: str
    whole: str
    version: str | None = None


class Sources(pydantic.RootModel[dict[str, MadeFolder]]):
    """Folder name -> what makes it."""


def sources() -> dict[str, MadeFolder]:
    """What this installation can make."""
    return load(SHIPPED / "configs" / "sources.yaml", Sources).root


def needed(recipe: Recipe, training: bool, benchmarks: Iterable[Benchmark]) -> list[Path]:
    """The files and folders of data that training by this recipe, and asking these benchmarks, read.

    Those of the hub are not among them: what they are is in their locks.
    """
    paths = []
    if training:
        sets = [*recipe.stage1.data, *recipe.stage2.data]
        paths = [locate(ref) for data in sets for ref in (data.path, data.images)]
    return list(dict.fromkeys([*paths, *folders_of(benchmarks, recipe.data)]))


def folders_of(benchmarks: Iterable[Benchmark], data: str) -> list[Path]:
    """The folders that benchmarks read of a data pin, those of the hub left out."""
    pins = (benchmark.pin(data) for benchmark in benchmarks)
    return [data_home() / part.repo for pin in pins if pin.source == "local" for part in pin.tables().values()]


def provide(paths: Iterable[Path], reporter: Reporter, check: bool = False) -> bool:
    """Make what is missing of some data; True if anything was made. With `check`, its maker looks closely.

    Raises:
        UserError: a path is missing that no source makes, or that its source did not make.
    """
    wanted = list(paths)
    made = False
    for name, source in sources().items():
        folder = data_home() / name
        if not any(path.is_relative_to(folder) for path in wanted):
            continue
        here = (folder / source.whole).is_file()
        current = here and _current(source, folder)
        if check or not here:
            _make(name, source, reporter)
            made = made or not current
        elif not current:
            # Not made anew unasked: trained runs belong to the data as they are, and others may be reading them.
            reporter.say(f"{folder}: made by another version of this code; `mllm-eval data` makes it anew")
    for path in wanted:
        if not path.exists():
            raise UserError(
                f"{path}: no such data. Put it there, or set MLLM_EVAL_DATA (now {data_home()}).{_near(path)}"
            )
    return made


def _near(path: Path) -> str:
    """Where the missing data is in a folder `data` of the working directory, which counts in a checkout only."""
    here = Path("data").absolute()
    if not path.is_relative_to(data_home()) or not (here / path.relative_to(data_home())).exists():
        return ""
    return f" It is in {here}, which is read by itself only in a checkout: export MLLM_EVAL_DATA={here}"


def _current(source: MadeFolder, folder: Path) -> bool:
    return source.version is None or read_text(folder / source.whole).strip() == _function(source.version)()


def _function(name: str) -> Callable[..., Any]:
    module, _, function = name.partition(":")
    maker: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return maker


def _make(name: str, source: MadeFolder, reporter: Reporter) -> None:
    make = _function(source.make)
    with reporter.step(f"data: {name}") as progress:
        make(data_home(), lambda _, done, total: progress(done, total))

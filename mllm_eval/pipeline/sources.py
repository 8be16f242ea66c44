"""Generate missing data where this project can; report it in one line where it can't."""

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
    """How a folder of the data home is generated; see configs/sources.yaml.

    make: `module:function` that generates it. whole: the file that marks it as complete.
    version: `module:function` that returns the text of that file as today's code writes it.
    """

    make: str
    whole: str
    version: str | None = None


class Sources(pydantic.RootModel[dict[str, MadeFolder]]):
    """Folder name -> how it is generated."""


def sources() -> dict[str, MadeFolder]:
    """Return the folders that this installation can generate, by name."""
    return load(SHIPPED / "configs" / "sources.yaml", Sources).root


def needed(recipe: Recipe, training: bool, benchmarks: Iterable[Benchmark]) -> list[Path]:
    """Return the data files and folders that these benchmarks read, and with `training` also the recipe's.

    Hub data are not included; their locks list their files.
    """
    paths = []
    if training:
        sets = [*recipe.stage1.data, *recipe.stage2.data]
        paths = [locate(ref) for data in sets for ref in (data.path, data.images)]
    return list(dict.fromkeys([*paths, *folders_of(benchmarks, recipe.data)]))


def folders_of(benchmarks: Iterable[Benchmark], data: str) -> list[Path]:
    """Return the local folders that benchmarks read for a data pin; hub data are left out."""
    pins = (benchmark.pin(data) for benchmark in benchmarks)
    return [data_home() / part.repo for pin in pins if pin.source == "local" for part in pin.tables().values()]


def provide(paths: Iterable[Path], reporter: Reporter, check: bool = False) -> bool:
    """Generate missing data. Return True if any data were generated or renewed.

    With `check`, the generator also runs for existing folders, and renews those of another version.

    Raises:
        UserError: a path that is missing after all generators ran.
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
            # Not renewed unasked: trained runs belong to the present data, and other processes may be reading them.
            reporter.say(f"{folder}: made by another version of this code; `mllm-eval data` makes it anew")
    for path in wanted:
        if not path.exists():
            raise UserError(
                f"{path}: no such data. Put it there, or set MLLM_EVAL_DATA (now {data_home()}).{_near(path)}"
            )
    return made


def _near(path: Path) -> str:
    """Return a hint if the data lie in `data` of the working directory, which is the data home in a checkout only."""
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

"""Finds yaml files by name in the folders of configurations."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Literal, TypeVar

import yaml

from mllm_eval.config import Strict
from mllm_eval.errors import UserError, near
from mllm_eval.storage import SHIPPED, read_text

Kind = Literal["encoders", "llms", "recipes", "benchmarks", "alignments", "probes", "filters"]
Model = TypeVar("Model", bound=Strict)


def roots() -> list[Path]:
    """Folders that may hold `configs/` and `benchmarks/`: the working folder, the shipped one, $MLLM_EVAL_PATH."""
    given = os.environ.get("MLLM_EVAL_PATH", "")
    return [Path.cwd(), SHIPPED, *(Path(part).expanduser() for part in given.split(os.pathsep) if part)]


def files(kind: Kind) -> dict[str, Path]:
    """Map every name of a kind to its yaml file. If several folders have a name, the first folder wins."""
    paths_by_name: dict[str, Path] = {}
    for root in roots():
        if kind == "benchmarks":
            paths = {path.parent.name: path for path in sorted(root.glob("benchmarks/*/benchmark.yaml"))}
        else:
            paths = {path.stem: path for path in sorted(root.glob(f"configs/{kind}/*.yaml"))}
        paths_by_name = {**paths, **paths_by_name}
    return paths_by_name


def folders(kind: Kind) -> list[Path]:
    """Folders of a kind's yaml files, in search order. The `base:` of a yaml may name a file in any of them."""
    return [root / "configs" / kind for root in roots()]


def names(kind: Kind) -> list[str]:
    """All known names, sorted. Benchmarks come in the order of configs/benchmarks.yaml, other ones after them."""
    known = files(kind)
    order = paper_benchmarks() if kind == "benchmarks" else []
    return [name for name in order if name in known] + sorted(set(known) - set(order))


def paper_benchmarks() -> list[str]:
    """The benchmarks of the paper's table, in its order, whether or not they are installed."""
    return list(_paper_order())


@cache
def _paper_order() -> tuple[str, ...]:
    listed = yaml.safe_load(read_text(SHIPPED / "configs" / "benchmarks.yaml"))
    return tuple(str(name) for name in listed["order"])


def find(kind: Kind, name: str) -> Path:
    """The yaml file of a name, or of a path to a yaml file (for a benchmark, also to its folder).

    Raises:
        UserError: an unknown name (with the nearest known one), or no file at the path.
    """
    if name.endswith((".yaml", ".yml")) or "/" in name:
        path = Path(name).expanduser()
        path = path / "benchmark.yaml" if path.is_dir() else path
        if path.is_file():
            return path
        raise UserError(f"{name}: no such yaml file")
    known = files(kind)
    if name in known:
        return known[name]
    word = kind.removesuffix("s")
    word = word.upper() if word == "llm" else word
    raise UserError(f"unknown {word} {name!r}.{near(name, known)} `mllm-eval ls {kind}` lists all.")


def load_named(kind: Kind, name: str, read: Callable[[Path], Model]) -> Model:
    """Read the yaml file of a name. Raises UserError if the file's `name:` differs from the name it is found by."""
    path = find(kind, name)
    loaded = read(path)
    stem = path.parent.name if kind == "benchmarks" else path.stem
    if (written := getattr(loaded, "name", stem)) != stem:
        raise UserError(f"{path}: its `name: {written}` differs from the name it is found by, {stem!r}")
    return loaded

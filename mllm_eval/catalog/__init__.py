"""Reads yaml files into typed encoders, recipes, LLMs and benchmarks."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mllm_eval.catalog.architecture import Architecture
from mllm_eval.catalog.encoder import Encoder, Facts, Preprocessing
from mllm_eval.catalog.folders import Kind, find, folders, load_named, names, paper_benchmarks
from mllm_eval.catalog.grid import Kept, TokenGrid
from mllm_eval.catalog.llm import LLM
from mllm_eval.catalog.recipe import ConversationData, Lora, Recipe, Stage
from mllm_eval.catalog.weights import Weights
from mllm_eval.config import Strict, load, load_mapping
from mllm_eval.errors import UserError

if TYPE_CHECKING:
    from mllm_eval.catalog.benchmark import Benchmark, Generation, Pin, RulesRef

Model = TypeVar("Model", bound=Strict)

__all__ = [
    "LLM",
    "Architecture",
    "Benchmark",
    "ConversationData",
    "Encoder",
    "Facts",
    "Generation",
    "Given",
    "Kept",
    "Kind",
    "Lora",
    "Pin",
    "Preprocessing",
    "Recipe",
    "RulesRef",
    "Stage",
    "TokenGrid",
    "Weights",
    "find",
    "load_benchmark",
    "load_encoder",
    "load_llm",
    "load_recipe",
    "names",
    "paper_benchmarks",
]


def __getattr__(name: str) -> Any:
    # Imported on demand, because encoders and recipes do not need the benchmark classes.
    if name in ("Benchmark", "Generation", "Pin", "RulesRef"):
        from mllm_eval.catalog import benchmark

        return getattr(benchmark, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


Given = str | PathLike[str] | Mapping[str, Any]
"""A name, a path to a yaml file (for a benchmark also to its folder), or a yaml file's content as a dict."""


def load_encoder(source: Given | Encoder, recipe: Recipe | None = None) -> Encoder:
    """Load an encoder by name, from a yaml file or from a dict. `NAME@VARIANT` preprocesses as that variant does.

    A recipe may override the yaml: `final_norm` applies to every encoder, `images` to one named without a variant.
    An `Encoder` is used as given. Raises UserError with the nearest known names, and for a mistake in the yaml.
    """
    split = re.fullmatch(r"(.+)@([\w-]+)", source) if isinstance(source, str) else None
    plain, variant = split.groups() if split else (source, None)
    encoder = _loaded("encoders", plain, Encoder)
    if variant:
        encoder = encoder.variant(variant)
    elif recipe is not None and recipe.images is not None and "@" not in encoder.name:
        encoder = encoder.squared(recipe.images)
    if recipe is not None and recipe.final_norm is not None:
        encoder = encoder.model_copy(update={"norm": recipe.final_norm})
    return encoder


def load_llm(source: Given | LLM) -> LLM:
    """Load an LLM by name, from a yaml file or from a dict; an `LLM` is used as given.

    Raises UserError with the nearest known names, and for a mistake in the yaml.
    """
    return _loaded("llms", source, LLM)


def load_recipe(source: Given | Recipe) -> Recipe:
    """Load a recipe by name, from a yaml file or from a dict; a `Recipe` is used as given.

    Raises UserError with the nearest known names, and for a mistake in the yaml.
    """
    return _loaded("recipes", source, Recipe)


def load_benchmark(source: Given | Benchmark) -> Benchmark:
    """Load a benchmark by name, from its folder or from a dict; a `Benchmark` is used as given.

    A dict with `base:` inherits from that benchmark, and uses the reader and scorer in its folder.
    Raises UserError with the nearest known names, and for a mistake in the yaml.
    """
    from mllm_eval.catalog.benchmark import Benchmark, read_benchmark

    if isinstance(source, Mapping) and (base := source.get("base")) is not None:
        path = find("benchmarks", str(base)).resolve()
        known = read_benchmark(path)
        own = {"folder": known.folder, **source, "base": str(path)}
        # A scorer that the yaml does not name has the benchmark's name, so a renamed benchmark must name it.
        renamed = source.get("name", known.name) != known.name
        source = {"scorer": known.scorer or known.name, **own} if renamed else own
    return _loaded("benchmarks", source, Benchmark, read_benchmark)


def _loaded(kind: Kind, source: Any, model: type[Model], read: Callable[[Path], Model] | None = None) -> Model:
    if isinstance(source, model):
        return source
    word = kind.removesuffix("s")
    word = word.upper() if word == "llm" else word
    if isinstance(source, Mapping):
        return load_mapping(source, model, f"the {word} given", folders(kind))
    if not isinstance(source, str | PathLike):
        raise UserError(
            f"{type(source).__name__} is no {word}; give a name, a path to a yaml file, a dict with the content of "
            f"one, or `mllm_eval.catalog.{model.__name__}`"
        )
    return load_named(kind, fspath(source), read or partial(load, model=model, folders=folders(kind)))

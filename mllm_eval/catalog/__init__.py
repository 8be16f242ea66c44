"""Yaml folders -> typed encoders, recipes, LLMs, benchmarks."""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Any

from mllm_eval.catalog.architecture import Architecture
from mllm_eval.catalog.encoder import Encoder, Facts, Preprocessing
from mllm_eval.catalog.folders import Kind, find, folders, load_named, names, paper_benchmarks
from mllm_eval.catalog.grid import Kept, TokenGrid
from mllm_eval.catalog.llm import LLM
from mllm_eval.catalog.recipe import ConversationData, Lora, Recipe, Stage
from mllm_eval.catalog.weights import Weights
from mllm_eval.config import load

if TYPE_CHECKING:
    from mllm_eval.catalog.benchmark import Benchmark, Generation, Pin, RulesRef

__all__ = [
    "LLM",
    "Architecture",
    "Benchmark",
    "ConversationData",
    "Encoder",
    "Facts",
    "Generation",
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
    # Loaded when asked for: encoders and recipes need none of the benchmark models.
    if name in ("Benchmark", "Generation", "Pin", "RulesRef"):
        from mllm_eval.catalog import benchmark

        return getattr(benchmark, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def load_encoder(name: str, recipe: Recipe | None = None) -> Encoder:
    """The encoder of a name or of a path to a yaml file; `NAME@VARIANT` preprocesses as its variant says.

    With a recipe, as that reads it: `final_norm` of the recipe holds for every encoder, its `images` for one that is
    named without a variant. Raises UserError with near names.
    """
    found = re.fullmatch(r"(.+)@([\w-]+)", name)
    plain, variant = found.groups() if found else (name, None)
    encoder = load_named("encoders", plain, partial(load, model=Encoder, folders=folders("encoders")))
    if variant:
        encoder = encoder.variant(variant)
    elif recipe is not None and recipe.images is not None:
        encoder = encoder.squared(recipe.images)
    if recipe is not None and recipe.final_norm is not None:
        encoder = encoder.model_copy(update={"norm": recipe.final_norm})
    return encoder


def load_llm(name: str) -> LLM:
    """The LLM of a name or of a path to a yaml file. Raises UserError with near names."""
    return load_named("llms", name, partial(load, model=LLM, folders=folders("llms")))


def load_recipe(name: str) -> Recipe:
    """The recipe of a name or of a path to a yaml file. Raises UserError with near names."""
    return load_named("recipes", name, partial(load, model=Recipe, folders=folders("recipes")))


def load_benchmark(name: str) -> Benchmark:
    """The benchmark of a name or of a path to its folder. Raises UserError with near names."""
    from mllm_eval.catalog.benchmark import read_benchmark

    return load_named("benchmarks", name, read_benchmark)

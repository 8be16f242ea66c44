"""Typed settings of readers. A misspelt setting, or a column that the data set lacks, is an error."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeVar

from mllm_eval.catalog.benchmark import Benchmark, folder_of
from mllm_eval.config import Strict, Where, key_lines, validate
from mllm_eval.errors import UserError, near

Reads = TypeVar("Reads", bound=Callable[..., Any])


class Asked(Strict):
    """Settings that all readers share.

    id: column of the rows' ids; None uses the row's number, from 0.
    image: column of the image; null for a benchmark without images.
    suffix: the instruction that ends the prompt, on its own line; null for none.
    stratum: column of a row's stratum, for drawing subsets and for values that are means over strata.
    """

    columns: ClassVar[tuple[str, ...]] = ("id", "image", "stratum")
    """The settings that name columns."""
    needed: ClassVar[tuple[str, ...]] = ("image",)
    """Those of `columns` whose default column must exist as well."""

    id: str | None = None
    image: str | None = "image"
    suffix: str | None = None
    stratum: str | None = None


def takes(model: type[Strict]) -> Callable[[Reads], Reads]:
    """Decorator that declares the settings class of a reader. A reader without it accepts any settings."""

    def declared(read: Reads) -> Reads:
        read.settings = model  # type: ignore[attr-defined]  # a function's own attribute
        return read

    return declared


def settings_of(benchmark: Benchmark, read: Callable[..., Any], changed: Mapping[str, Any] | None) -> dict[str, Any]:
    """A benchmark's settings, overridden by those that a variant changes.

    Raises UserError with file and line for an unknown setting, or one of another type.
    """
    said = {**benchmark.settings, **(changed or {})}
    model = getattr(read, "settings", None)
    if model is not None:
        source, where = _lines(benchmark)
        validate(said, model, source, where)
    return said


def check_named(
    benchmark: Benchmark, read: Callable[..., Any], settings: Mapping[str, Any], columns: Mapping[str, Any]
) -> None:
    """Raise UserError if a setting names a column that the data set lacks. columns: those of its first row."""
    model = getattr(read, "settings", None)
    if model is None or not issubclass(model, Asked):
        return
    chosen = model.model_validate(settings)
    for key in model.columns:
        named = getattr(chosen, key)
        for name in named if isinstance(named, list) else [named]:
            wanted = name is not None and (key in settings or key in model.needed)
            if wanted and name not in columns:
                source, where = _lines(benchmark)
                place = where.get((key,), source)
                said = f"{place}: {key}: the data set has no column {name!r}.{near(name, columns)}"
                mend = " A benchmark without images says `image: null`." if key == "image" else ""
                raise UserError(f"{said} It has: {', '.join(columns)}.{mend}")


def _lines(benchmark: Benchmark) -> tuple[str, Where]:
    """The path of the benchmark's yaml, and the line of each setting in it. Settings of variants have no line."""
    path = folder_of(benchmark) / "benchmark.yaml"
    try:
        lines = key_lines(path)
    except UserError:
        return f"{path}: settings", {}
    return f"{path}: settings", {at[1:]: f"{place}: settings" for at, place in lines.items() if at[0] == "settings"}

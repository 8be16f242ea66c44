"""The content of a benchmark's yaml: where its data is, how rows become samples, and how answers are scored."""

from __future__ import annotations

import importlib.util
import re
import sys
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from mllm_eval.catalog.colour import colour
from mllm_eval.catalog.folders import find
from mllm_eval.catalog.variant import BLIND, DEFAULT, VariantKey
from mllm_eval.config import Strict, load
from mllm_eval.errors import UserError, fault, near
from mllm_eval.storage import sha256_bytes


class Join(Strict):
    """Images in a separate table: the image of a row is table[image] where row[column] == table[key]."""

    table: str
    column: str
    key: str
    image: str


class Pin(Strict):
    """One snapshot of a data set in the hub's layout.

    source: `local` is a folder under the data home, read without a lock; `hub` is a data set of the hub, which
        `mllm-eval data` downloads and locks, and of which only the locked files are read.
    repo: the folder, or the hub's name of the data set.
    path: glob of the split's files inside it (default `{config}/{split}-*.parquet`).
    revision: commit or tag of the hub; if None, the first download takes the newest commit, and the lock keeps it.
    rows, ids: expected number of samples, and SHA-256 of their ids joined by newlines; None for no check.
    chance: accuracy in per cent of the best guess without the image, the commonest option text of each question.
    columns: upstream column -> type; overrides the benchmark's. `int64|string` accepts both and reads the first.
    image_files: for a csv with an image folder, the image's path as a template with the row's columns.
    """

    source: Literal["local", "hub"] = Field(default="local", exclude_if=lambda source: source == "local")
    repo: str
    split: str
    config: str | None = None
    path: str | None = None
    revision: str | None = None
    rows: int | None = None
    ids: str | None = None
    chance: float | None = None
    columns: dict[str, str] = Field(default_factory=dict)
    image_files: str | None = None
    join: Join | None = None
    extra: dict[str, Pin] = Field(default_factory=dict)

    @property
    def pattern(self) -> str:
        """Glob of the data files, relative to the repo's folder."""
        return self.path or f"{self.config or 'data'}/{self.split}-*.parquet"

    @property
    def patterns(self) -> list[str]:
        """Globs of all files that the pin reads: its tables, and the image files of a csv."""
        beside = [re.sub(r"{[^}]*}", "*", self.image_files)] if self.image_files else []
        return [self.pattern, *beside]

    def tables(self) -> dict[str, Pin]:
        """The pin's own table, named `questions`, and the tables that it joins; all have the same `source`."""
        return {
            "questions": self,
            **{k: pin.model_copy(update={"source": self.source}) for k, pin in self.extra.items()},
        }


class Generation(Strict):
    """Limits of greedy decoding."""

    max_new_tokens: int


class RulesRef(Strict):
    """A rule set. The table prints its reported number `metric`, times `scale`.

    clean_up_spaces: remove spaces before punctuation and contractions from a model's answers before they are scored,
        as transformers did in decoding when the paper's code was written (`mllm_eval.score.cleaning`). Imported answer
        files are scored unchanged.
    """

    version: int
    metric: str = "accuracy"
    scale: float = 1.0
    clean_up_spaces: bool = Field(default=False, exclude_if=lambda value: not value)


class Variant(Strict):
    """A named way to ask or to score that differs from the default.

    settings: changed prompt settings. pins: requested pin -> pin that is used.
    metric: another reported number for the table, times `scale`.
    images: `own`, `none` (blind) or `other` (another sample's image).
    """

    about: str = ""
    settings: dict[str, Any] = Field(default_factory=dict)
    pins: dict[str, str] = Field(default_factory=dict)
    metric: str | None = None
    scale: float = 1.0
    images: Literal["own", "none", "other"] = "own"


GENERIC: dict[str, Variant] = {
    DEFAULT.name: Variant(about="as the paper's code asks"),
    BLIND.name: Variant(about="no image in the prompt", images="none"),
    "shuffled": Variant(about="another sample's image, the same in every run", images="other"),
}


class Benchmark(Strict):
    """One benchmark.

    reader: `module:function`; a module name without a dot is a file beside the yaml.
    background: the colour (a CSS name or `"#rrggbb"`) under transparent images. null drops their alpha channel, as
        the paper's code does, which shows the hidden colours of transparent pixels.
    """

    name: str
    title: str
    category: Literal["general", "knowledge", "ocr_chart", "vision_centric"]
    data: dict[str, Pin]
    columns: dict[str, str] = Field(default_factory=dict)
    reader: str
    settings: dict[str, Any] = Field(default_factory=dict)
    generation: Generation
    scorer: str = ""
    aliases: dict[str, str] = Field(default_factory=dict)
    rules: dict[str, RulesRef]
    scale: float = 100.0
    chance: float
    background: str | None = Field(default="#ffffff", exclude_if=lambda value: value is None)
    variants: dict[str, Variant] = Field(default_factory=dict)
    folder: Path | None = Field(default=None, exclude=True)

    @model_validator(mode="before")
    @classmethod
    def _share_columns(cls, raw: Any) -> Any:
        # Each pin gets the benchmark's columns, so that every pin can be checked on its own.
        shared = raw.get("columns") if isinstance(raw, dict) else None
        if shared and isinstance(shared, dict) and isinstance(raw.get("data"), dict):
            return {**raw, "data": {name: _with_columns(pin, shared) for name, pin in raw["data"].items()}}
        return raw

    _background = field_validator("background", mode="after")(colour)

    def variant(self, key: VariantKey) -> Variant:
        """The settings of a variant (a subset has its variant's). Raises UserError with the nearest known name."""
        known, name = {**GENERIC, **self.variants}, key.name
        if name not in known:
            hint = f"{near(name, known)} Known: {', '.join(known)}"
            raise UserError(f"{self.name} has no variant '{name}'.{hint}")
        return known[name]

    def pin_name(self, name: str, variant: VariantKey = DEFAULT) -> str:
        """Name of the pin that a variant reads when `name` is requested. Raises UserError with the nearest name."""
        wanted = self.variant(variant).pins.get(name, name)
        if wanted not in self.data:
            hint = f"{near(wanted, self.data)} Known: {', '.join(self.data)}"
            raise UserError(f"{self.name} has no data pin '{wanted}'.{hint}")
        return wanted

    def pin(self, name: str, variant: VariantKey = DEFAULT) -> Pin:
        """The pin that a variant reads when `name` is requested. Raises UserError with the nearest known name."""
        return self.data[self.pin_name(name, variant)]


def _with_columns(pin: Any, shared: dict[str, Any]) -> Any:
    own = pin.get("columns") or {} if isinstance(pin, dict) else None
    return {**pin, "columns": {**shared, **own}} if isinstance(own, dict) else pin


def answers_variant(benchmark: Benchmark, variant: VariantKey, pin: str) -> VariantKey:
    """The variant whose answers can be reused: the first one with equal prompts, images and data.

    pin: the requested data pin.
    """

    def asks(name: str) -> Any:
        chosen = benchmark.variant(VariantKey(name))
        return {**benchmark.settings, **chosen.settings}, chosen.pins.get(pin, pin), chosen.images

    mine = asks(variant.name)
    return variant.named(next(name for name in (*GENERIC, *benchmark.variants) if asks(name) == mine))


def read_benchmark(path: Path) -> Benchmark:
    """Read a benchmark's yaml, and record its folder, where scorer and reader are. Raises UserError for mistakes."""
    return load(path, Benchmark).model_copy(update={"folder": path.resolve().parent})


def folder_of(benchmark: Benchmark) -> Path:
    """The folder of a benchmark's yaml: where it was read, else found by name. Raises UserError if it is unknown."""
    return benchmark.folder or find("benchmarks", benchmark.name).resolve().parent


def module_of(benchmark: Benchmark, module: str) -> ModuleType:
    """Import a module of the project (dotted name), or a file beside the benchmark's yaml.

    The file may import its neighbours relatively, as it can under the `evaluate` library. It is imported again if code
    in its folder has changed. Raises UserError with file and line if it can't be imported.
    """
    folder = folder_of(benchmark)
    try:
        return importlib.import_module(module) if "." in module else _beside(folder, module)
    except Exception as error:
        raise fault(error, f"benchmark {benchmark.name}: can't import '{module}'", folder) from None


_imported: dict[str, list[tuple[str, int, int]]] = {}


def _beside(folder: Path, module: str) -> ModuleType:
    path = folder / f"{module}.py"
    if not path.is_file():
        raise ModuleNotFoundError(f"no {path.name} in {folder}")
    name = f"mllm_eval_benchmark_{sha256_bytes(str(folder).encode())[:12]}_{module}"
    states = [(str(path), (stat := path.stat()).st_size, stat.st_mtime_ns) for path in sorted(folder.glob("*.py"))]
    if _imported.get(name, states) != states:
        for known in [known for known in sys.modules if known == name or known.startswith(f"{name}.")]:
            del sys.modules[known]
        for changed, _, _ in states:
            # Python compares compiled files by whole seconds, so a file changed within one second would be missed.
            with suppress(OSError):
                Path(importlib.util.cache_from_source(changed)).unlink(missing_ok=True)
        importlib.invalidate_caches()
    _imported[name] = states
    if name not in sys.modules:
        # This makes relative imports look in the benchmark's folder.
        spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=[str(folder)])
        assert spec is not None and spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(sys.modules[name])
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]

"""An external vision-language model that is asked as it is: no encoder, no recipe, no training."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import yaml

from mllm_eval.adapters import weights_folder
from mllm_eval.catalog import Weights
from mllm_eval.config import Strict, load, short_hash
from mllm_eval.errors import UserError, near
from mllm_eval.greedy import overruled
from mllm_eval.imported import Imported, is_imported
from mllm_eval.run import External, Run, saved_run, saved_runs
from mllm_eval.storage import results_home, write_atomic

Dtype = Literal["float32", "bfloat16", "float16"]


class ExternalModelConfig(Strict):
    """What config.yaml of an external model's folder holds under `model`."""

    name: str
    weights: Weights
    digest: str
    data: str
    dtype: Dtype
    batch: int
    overruled: dict[str, Any] | None = None


class _File(Strict):
    model: ExternalModelConfig


@dataclass(frozen=True)
class ExternalModel(External):
    """A model in the hub's format, and how it is asked.

    `digest` says which bytes it is (worked out from the files unless given). `data` is the benchmarks' data pin.
    `batch` questions go through the model at a time; with one, no question's answer hangs on another.
    `overruled`: fields of its generation_config that greedy decoding does not follow; None in the folder of a version
    that followed them.
    """

    label: str
    weights: Weights
    data_pin: str
    dtype: Dtype = "float32"
    batch: int = 1
    digest: str = field(default="", compare=False)
    overruled: dict[str, Any] | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if not self.digest:
            object.__setattr__(self, "digest", self.weights.digest())

    @classmethod
    def of(cls, place: str, data: str = "hub", dtype: Dtype = "float32", batch: int = 1) -> ExternalModel:
        """The model in a folder, or of a hub repository `owner/name[@revision]`.

        Raises UserError for a folder without a model's config, and for what is neither.
        """
        folder = Path(place).expanduser()
        if folder.is_dir():
            if not (folder / "config.json").is_file():
                raise UserError(f"{folder}: no config.json; an external model in the hub's format has one")
            weights = Weights(path=str(folder.resolve()))
            return cls(folder.resolve().name, weights, data, dtype, batch, overruled=overruled(folder))
        repo, _, revision = place.partition("@")
        if repo.count("/") != 1 or repo.startswith((".", "/", "~")):
            raise UserError(f"{place}: neither a folder nor a repository `owner/name[@revision]` of the hub")
        weights = Weights(repo=repo, revision=revision or None)
        model = cls(repo.rpartition("/")[2], weights, data, dtype, batch)
        said: dict[str, Any] | None
        try:
            said = overruled(weights_folder(weights))
        except UserError:
            # Not on this machine: what was asked before is all there is to say.
            said = cls.load(model.folder).overruled if is_external_model(model.folder) else None
        return replace(model, overruled=said)

    @classmethod
    def load(cls, folder: Path) -> ExternalModel:
        """The model of a folder under results/runs. Raises UserError where the folder is not one of a model."""
        said = load(folder / "config.yaml", _File).model
        return cls(said.name, said.weights, said.data, said.dtype, said.batch, said.digest, said.overruled)

    @cached_property
    def hash(self) -> str:
        """12 hex digits of the model's bytes and how it is asked; where it lies does not matter."""
        return short_hash({"model": self.digest, "data": self.data_pin, "dtype": self.dtype, "batch": self.batch})

    @property
    def heading(self) -> str:
        return f"{self.label}, a finished model"

    def write_config(self) -> None:
        """Write config.yaml, unless it is there and whole."""
        said = ExternalModelConfig(
            name=self.label, weights=self.weights, digest=self.digest, data=self.data_pin, dtype=self.dtype,
            batch=self.batch, overruled=self.overruled,
        )  # fmt: skip
        text = yaml.safe_dump({"model": said.model_dump(mode="json")}, sort_keys=False, allow_unicode=True)
        path = self.folder / "config.yaml"
        if not path.is_file() or path.read_text(encoding="utf-8", errors="replace") != text:
            write_atomic(path, text)


def is_external_model(folder: Path) -> bool:
    """Whether a folder under results/runs is an external model's."""
    try:
        ExternalModel.load(folder)
    except UserError:
        return False
    return True


def is_external(folder: Path) -> bool:
    """Whether a folder under results/runs is no run of an encoder: an external model's, or one of imported answers."""
    return is_external_model(folder) or is_imported(folder)


def saved_models() -> list[ExternalModel | Imported]:
    """Every external model under results/runs, and every name that answers were imported under, by name."""
    folders = sorted(path.parent for path in (results_home() / "runs").glob("*/config.yaml"))
    models = [ExternalModel.load(folder) for folder in folders if is_external_model(folder)]
    others = [Imported.load(folder) for folder in folders if is_imported(folder)]
    return sorted([*models, *others], key=lambda one: one.name)


def unreadable() -> dict[str, str]:
    """Each folder under results/runs whose run can't be told any more, and why, in words.

    Its config does not load (an older version wrote it, or somebody changed it), or is gone from beside its answers.
    """
    found: dict[str, str] = {}
    for folder in sorted(path for path in (results_home() / "runs").glob("*") if path.is_dir()):
        if not (folder / "config.yaml").is_file():
            if any((folder / part).is_dir() for part in ("answers", "scores", "checkpoint")):
                found[folder.name] = f"{folder}: there is no config.yaml"
        elif not is_external_model(folder) and not is_imported(folder):
            try:
                Run.load(folder)
            except UserError as problem:
                found[folder.name] = str(problem)
    return found


def unreadable_notes() -> list[str]:
    """A sentence for each `unreadable` run, for those who show all runs."""
    return [f"Left out: {name}, because its config no longer loads: {why}" for name, why in unreadable().items()]


def saved(name: str) -> Run | ExternalModel | Imported:
    """The run, external model or imported answers of a hash, a hash's beginning, a whole name, or a name of one only.

    Raises UserError where none or several match.
    """
    models = saved_models()
    exact = [one for one in models if name in (one.name, one.hash)]
    found = exact or [one for one in models if one.hash.startswith(name) or name in (one.label, one.stem)]
    if len(found) == 1 and not any(run.hash.startswith(name) for run in saved_runs()):
        return found[0]
    if len(found) > 1:
        raise UserError(f"{name!r} is {len(found)} models: {', '.join(one.hash for one in found)}. Give one of these.")
    try:
        return saved_run(name)
    except UserError as problem:
        if broken := [(one, why) for one, why in unreadable().items() if one.startswith(name)]:
            raise UserError(f"run {broken[0][0]}: its config no longer loads: {broken[0][1]}") from None
        hint = near(name, [one.label for one in models])
        raise UserError(f"{problem}{hint}") from None

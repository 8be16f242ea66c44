"""An external vision-language model that is evaluated without training, encoder or recipe."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from mllm_eval.adapters import weights_folder
from mllm_eval.catalog import Weights
from mllm_eval.config import Strict, load, short_hash
from mllm_eval.errors import UserError, is_whole, near
from mllm_eval.greedy import overruled
from mllm_eval.hub import Source
from mllm_eval.run import External

Dtype = Literal["float32", "bfloat16", "float16"]


class ExternalModelConfig(Strict):
    """The field `model` of an external model's config.yaml."""

    name: str
    weights: Weights
    digest: str
    data: str
    dtype: Dtype
    batch: int
    overruled: dict[str, Any] | None = None


class ExternalModelFile(Strict):
    """The content of an external model's config.yaml."""

    model: ExternalModelConfig


@dataclass(frozen=True)
class ExternalModel(External):
    """A model in the hub's format, and how it is evaluated.

    label: its name. data_pin: the benchmarks' data pin. digest: of its files; computed unless given.
    batch: number of questions in one batch; with 1, answers do not depend on other questions.
    overruled: fields of its generation_config that greedy decoding ignores; None in folders of earlier versions, which
        followed them.
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
        """Return the model in a folder, or of a hub repository `owner/name[@revision]`.

        Raises UserError for a folder without config.json, a `place` that is neither, a dtype that is none of `Dtype`,
        and a batch that is not a number from 1.
        """
        known = get_args(Dtype)
        if dtype not in known:
            raise UserError(f"dtype {str(dtype)!r} is unknown.{near(str(dtype), known)} Known: {', '.join(known)}")
        if not is_whole(batch) or batch < 1:
            raise UserError(f"batch {batch!r}: give 1 or more questions at a time")
        folder = Path(place).expanduser()
        if folder.is_dir():
            if not (folder / "config.json").is_file():
                raise UserError(f"{folder}: no config.json; an external model in the hub's format has one")
            weights = Weights(path=str(folder.resolve()))
            return cls(folder.resolve().name, weights, data, dtype, batch, overruled=overruled(folder))
        source = Source.of_model(place)
        if source.repo.count("/") != 1 or source.repo.startswith((".", "/", "~")):
            raise UserError(f"{place}: neither a folder nor a repository `owner/name[@revision]` of the hub")
        weights = Weights(repo=source.repo, revision=source.revision)
        model = cls(source.repo.rpartition("/")[2], weights, data, dtype, batch)
        said: dict[str, Any] | None
        try:
            said = overruled(weights_folder(weights))
        except UserError:
            # The weights are not on this machine, so the fields come from an earlier evaluation, if any.
            said = cls._overruled_before(model.folder)
        return replace(model, overruled=said)

    @classmethod
    def load(cls, folder: Path) -> ExternalModel:
        """Return the model of a folder under results/runs. Raises UserError for a folder of another kind."""
        return cls.of_config(load(folder / "config.yaml", ExternalModelFile).model)

    @classmethod
    def of_config(cls, said: ExternalModelConfig) -> ExternalModel:
        """Return the model that a folder's config.yaml describes."""
        return cls(said.name, said.weights, said.data, said.dtype, said.batch, said.digest, said.overruled)

    @classmethod
    def _overruled_before(cls, folder: Path) -> dict[str, Any] | None:
        try:
            return cls.load(folder).overruled
        except UserError:
            return None

    @cached_property
    def hash(self) -> str:
        """12 hex digits of a hash of digest, data pin, dtype and batch; the model's location does not matter."""
        return short_hash({"model": self.digest, "data": self.data_pin, "dtype": self.dtype, "batch": self.batch})

    @property
    def heading(self) -> str:
        return f"{self.label}, an external model"

    def config(self) -> dict[str, Any]:
        """Return name, weights, digest, data pin, dtype, batch and overruled fields as plain data."""
        said = ExternalModelConfig(
            name=self.label, weights=self.weights, digest=self.digest, data=self.data_pin, dtype=self.dtype,
            batch=self.batch, overruled=self.overruled,
        )  # fmt: skip
        return {"model": said.model_dump(mode="json")}
